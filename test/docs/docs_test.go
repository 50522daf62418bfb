package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/option"
)

// TestReference has the pages that are committed be what the code says.
func TestReference(t *testing.T) {
	files := reference()
	for name, want := range files {
		b, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil || string(b) != want {
			t.Errorf("docs/%s isn't what the code says (%v); run: make docs", name, err)
		}
	}
	there, err := filepath.Glob("../../docs/" + commandPages + "/*.md")
	if err != nil || len(there) < 20 {
		t.Fatal(there, err)
	}
	for _, path := range there {
		if name, _ := filepath.Rel("../../docs", path); files[name] == "" {
			t.Errorf("%s is of no command; run: make docs", path)
		}
	}
}

// TestKeys has every key be described, and each default be a value that can be set.
func TestKeys(t *testing.T) {
	tables := map[string][]option.Key{"server": daemon.ServerKeys(), "instance": instanceKeys(), "network": network.Keys(),
		"volume": daemon.VolumeKeys(), "project": daemon.ProjectKeys()}
	for name, keys := range instance.DeviceKeys() {
		tables[name] = keys
	}
	for name, keys := range tables {
		if !slices.IsSortedFunc(keys, func(a, b option.Key) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("the keys of %s aren't in order", name)
		}
		for i, k := range keys {
			if k.Help == "" || k.Type.Name == "" || strings.HasSuffix(k.Help, ".") {
				t.Errorf("%s %s: type %q, %q", name, k.Name, k.Type.Name, k.Help)
			}
			if err := k.Check(k.Type.Default); err != nil {
				t.Errorf("%s %s: the default can't be set: %v", name, k.Name, err)
			}
			if i > 0 && keys[i-1].Name == k.Name {
				t.Errorf("%s %s is there twice", name, k.Name)
			}
		}
	}
}

// TestManual formats every page without a complaint.
func TestManual(t *testing.T) {
	files := manual()
	dir := t.TempDir()
	if err := write(dir, files); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kiln.1", "kiln-launch.1", "kiln-storage-volume-attach.1"} {
		if !strings.Contains(files[name], ".SH EXAMPLES") {
			t.Errorf("%s: %s", name, files[name])
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 100 {
		t.Fatal(len(pages), err)
	}
	said := new(strings.Builder)
	format := exec.Command("groff", append([]string{"-man", "-Tutf8", "-wmac"}, pages...)...)
	format.Stderr = said
	if out, err := format.Output(); err != nil || said.Len() > 0 || len(out) < 100_000 {
		t.Errorf("%v %s\n%d bytes", err, said, len(out))
	}
}
