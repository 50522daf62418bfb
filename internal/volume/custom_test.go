package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

func openCustoms(t *testing.T) (*volume.Pool, string) {
	t.Helper()
	dir := t.TempDir()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, dir
}

func isKind(t *testing.T, err error, k kiln.Kind) {
	t.Helper()
	if !errors.Is(err, k) {
		t.Errorf("error %v, want %s", err, k)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCustom(t *testing.T) {
	p, _ := openCustoms(t)
	data := volume.CustomName{In: "default", Name: "data"}
	other := volume.CustomName{In: "default", Name: "other"}
	must(t, p.CreateCustom(data, volume.CustomState{Description: "x", Config: map[string]string{"user.a": "b"}}))
	isKind(t, p.CreateCustom(data, volume.CustomState{}), kiln.Conflict)
	for _, name := range []string{"", ".", "..", ".hidden", "a/b", "a b", "-f"} {
		bad := volume.CustomName{In: "default", Name: name}
		isKind(t, p.CreateCustom(bad, volume.CustomState{}), kiln.Invalid)
		isKind(t, p.RenameCustom(data, name), kiln.Invalid)
		isKind(t, p.DeleteCustom(bad), kiln.Invalid)
		isKind(t, p.CreateCustom(volume.CustomName{In: name, Name: "x"}, volume.CustomState{}), kiln.Invalid)
	}
	files, err := p.CustomFiles(data)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(files, "file"), []byte("text"), 0o600))
	must(t, p.EditCustom(data, func(s *volume.CustomState) error { s.Description = "y"; return nil }))
	refused := errors.New("refused")
	if err := p.EditCustom(data, func(s *volume.CustomState) error { s.Description = "z"; return refused }); err != refused {
		t.Error(err)
	}
	must(t, p.CreateCustom(other, volume.CustomState{}))
	isKind(t, p.RenameCustom(data, "other"), kiln.Conflict)
	isKind(t, p.RenameCustom(volume.CustomName{In: "default", Name: "none"}, "new"), kiln.NotFound)
	must(t, p.RenameCustom(data, "new"))
	_, err = p.CustomFiles(data)
	isKind(t, err, kiln.NotFound)
	data.Name = "new"
	c, err := p.Custom(data)
	if err != nil || c.Description != "y" || c.Config["user.a"] != "b" || c.Damage != "" {
		t.Errorf("%+v %v", c, err)
	}
	if n, err := p.CustomUsage(t.Context(), data); n < 4096 || err != nil {
		t.Errorf("%d bytes %v", n, err)
	}

	// One name in two projects is two volumes.
	elsewhere := volume.CustomName{In: "web", Name: "new"}
	must(t, p.CreateCustom(elsewhere, volume.CustomState{}))
	must(t, p.DeleteCustom(data))
	isKind(t, p.DeleteCustom(data), kiln.NotFound)
	if c, err := p.Custom(elsewhere); err != nil || c.Damage != "" {
		t.Errorf("%+v %v", c, err)
	}
	ins, err := p.CustomIns()
	if !slices.Equal(ins, []string{"default", "web"}) || err != nil {
		t.Errorf("%q %v", ins, err)
	}
}

// TestDamagedCustom damages volumes in each way: they are in the list with the reason, hide
// no other, aren't changed, and can be deleted.
func TestDamagedCustom(t *testing.T) {
	p, dir := openCustoms(t)
	in := filepath.Join(dir, "custom", "default")
	for _, name := range []string{"good", "record", "norecord", "files", "link"} {
		must(t, p.CreateCustom(volume.CustomName{In: "default", Name: name}, volume.CustomState{}))
	}
	must(t, os.WriteFile(filepath.Join(in, "record", "custom.json"), []byte("{"), 0o600))
	must(t, os.Remove(filepath.Join(in, "norecord", "custom.json")))
	must(t, os.Remove(filepath.Join(in, "files", "files")))
	must(t, os.Remove(filepath.Join(in, "link", "files")))
	target := t.TempDir()
	kept := filepath.Join(target, "kept")
	must(t, os.WriteFile(kept, nil, 0o600))
	must(t, os.Symlink(target, filepath.Join(in, "link", "files")))
	must(t, os.WriteFile(filepath.Join(in, ".stray"), nil, 0o600))
	all, err := p.Customs("default")
	if len(all) != 5 || err != nil {
		t.Fatalf("%+v %v", all, err)
	}
	for _, c := range all {
		if (c.Damage == "") != (c.Name == "good") {
			t.Errorf("%s: damage %q", c.Name, c.Damage)
		}
		if c.Name == "good" {
			continue
		}
		isKind(t, p.EditCustom(c.CustomName, func(*volume.CustomState) error { return nil }), kiln.Integrity)
		must(t, p.DeleteCustom(c.CustomName))
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if all, err := p.Customs("default"); len(all) != 1 || err != nil {
		t.Errorf("%+v %v", all, err)
	}
}

// TestCustomAtOnce lets many make, rename and delete the same volume: each step is done by
// one of them.
func TestCustomAtOnce(t *testing.T) {
	p, dir := openCustoms(t)
	data := volume.CustomName{In: "default", Name: "data"}
	for _, step := range []func() error{
		func() error { return p.CreateCustom(data, volume.CustomState{}) },
		func() error { return p.RenameCustom(data, "next") },
		func() error { return p.DeleteCustom(volume.CustomName{In: "default", Name: "next"}) },
	} {
		var wg sync.WaitGroup
		done := make(chan error, 8)
		for range cap(done) {
			wg.Go(func() { done <- step() })
		}
		wg.Wait()
		close(done)
		good := 0
		for err := range done {
			if err == nil {
				good++
			} else if k := kiln.KindOf(err); k != kiln.Conflict && k != kiln.NotFound {
				t.Error(err)
			}
		}
		if good != 1 {
			t.Errorf("%d have done it", good)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "custom", "default")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}
