package format

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

func inspect(t *testing.T, b []byte) Facts {
	t.Helper()
	path := formattest.Write(t, "f", b)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	facts, err := Inspect(t.Context(), bytes.NewReader(b), f, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func TestInspect(t *testing.T) {
	meta, rootfs := formattest.Split(t)
	unified := formattest.Unified(t)
	for name, c := range map[string]struct {
		b                    []byte
		format               archive.Format
		metadata, root, tree bool
	}{
		"unified":         {unified, archive.Tar, true, true, false},
		"unified gz":      {formattest.Compress(t, unified, "gzip"), archive.Gzip, true, true, false},
		"unified squash":  {formattest.Squashfs(t, unified), archive.Squashfs, true, true, false},
		"metadata":        {meta, archive.Tar, true, false, false},
		"rootfs":          {rootfs, archive.Tar, false, false, true},
		"rootfs squashfs": {formattest.Squashfs(t, rootfs), archive.Squashfs, false, false, true},
	} {
		f := inspect(t, c.b)
		if f.Format != c.format || (f.Metadata != nil) != c.metadata || f.Rootfs != c.root || f.Tree != c.tree {
			t.Errorf("%s: %+v", name, f)
		}
		if name != "metadata" && (f.Arch != "x86_64" || f.OSRelease["ID"] != "busybox") {
			t.Errorf("%s: architecture %q, os-release %v", name, f.Arch, f.OSRelease)
		}
	}
}

func TestSynthesise(t *testing.T) {
	_, rootfs := formattest.Split(t)
	l, err := Arrange([]Facts{inspect(t, rootfs)})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Arrange([]Facts{inspect(t, rootfs)})
	if l.Synthesised == nil || !bytes.Equal(l.Synthesised, again.Synthesised) {
		t.Error("the same tree gives other metadata")
	}
	want := map[string]string{"architecture": "x86_64", "os": "busybox", "release": "1", "version": "1",
		"description": "Busybox 1 (x86_64)"}
	if d := cmp.Diff(want, l.Metadata.Properties); d != "" || l.Metadata.CreationDate != 1458040200 {
		t.Errorf("%s created %d", d, l.Metadata.CreationDate)
	}
}

// TestOwnNames has instances of a bare root filesystem named by templates, but for a
// file that says something already.
func TestOwnNames(t *testing.T) {
	for body, want := range map[string]int{"": 2, "127.0.0.1 localhost\n": 1} {
		l, err := synthesise(inspect(t, formattest.Tar(t, append(formattest.Rootfs(t, ""),
			formattest.File{Name: "etc/hosts", Body: body})...)))
		if err != nil {
			t.Fatal(err)
		}
		in, found := tar.NewReader(bytes.NewReader(l.Synthesised)), 0
		for {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(h.Name, "templates/") {
				found++
			}
		}
		if len(l.Metadata.Templates) != want || found != want {
			t.Errorf("hosts is %q: templates %v, %d files", body, l.Metadata.Templates, found)
		}
	}
}

func TestHash(t *testing.T) {
	meta, rootfs := formattest.Split(t)
	a, b := formattest.Write(t, "a", meta), formattest.Write(t, "b", rootfs)
	one, err1 := Hash(t.Context(), a, b)
	two, err2 := Hash(t.Context(), b, a)
	if one != two || one.IsZero() || err1 != nil || err2 != nil {
		t.Errorf("%s, %s, %v, %v", one, two, err1, err2)
	}
	if _, err := Hash(t.Context(), a); !errors.Is(err, kiln.Invalid) {
		t.Error(err)
	}
}

func TestMetadata(t *testing.T) {
	m, err := ParseMetadata([]byte(formattest.Metadata))
	if err != nil || m.Properties["release"] != "1.35" || m.Templates["/etc/started"].Properties["greeting"] != "hello" {
		t.Fatalf("%+v, %v", m, err)
	}
	b, err := m.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseMetadata(b)
	if d := cmp.Diff(m, again); d != "" || err != nil {
		t.Errorf("%s %v", d, err)
	}
	scalar, err := ParseMetadata([]byte("architecture: i386\ncreation_date: 1\nunknown: [1]\nproperties: {a: 1, b: " +
		"true, c: 2012-10-10, d: null, e: 12.10}\n"))
	if d := cmp.Diff(map[string]string{"a": "1", "b": "true", "c": "2012-10-10", "d": "", "e": "12.10"},
		scalar.Properties); d != "" || err != nil {
		t.Errorf("%s %v", d, err)
	}
	for _, bad := range []string{
		"templates: {/x: {template: a, uid: root}}", "creation_date: .inf", "<<: 5", "? [a]\n: b", "x: &x [*x]",
		"templates: {/x: {template: a, mode: 999}}", "templates: {/x: {}}", "templates: {/x: }",
	} {
		if _, err := ParseMetadata([]byte("architecture: i386\ncreation_date: 1\n" + bad)); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(formattest.Metadata))
	f.Add([]byte("x: &x {when: [copy]}\narchitecture: i386\ncreation_date: 1.5\ntemplates: {/a: {<<: [*x], template: b}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMetadata(b)
		if err != nil {
			return
		}
		y, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseMetadata(y); err != nil {
			t.Errorf("what was written can't be read: %v\n%s", err, y)
		}
	})
}

// collect is a TreeWriter that remembers names.
type collect struct{ names []string }

func (c *collect) Add(e *archive.Entry, r io.Reader) error {
	c.names = append(c.names, e.Path)
	return nil
}
func (c *collect) Close() error { return nil }

// oneFile is a stream of a file.
type oneFile struct {
	*bytes.Reader
	role kiln.Role
	done bool
}

func (s *oneFile) Next() (kiln.File, error) {
	if s.done {
		return kiln.File{}, io.EOF
	}
	s.done = true
	return kiln.File{Role: s.role}, nil
}
func (s *oneFile) Close() error { return nil }

func TestUnpack(t *testing.T) {
	var rootfs, meta collect
	s := &oneFile{Reader: bytes.NewReader(formattest.Unified(t)), role: kiln.Unified}
	if err := Unpack(t.Context(), s, archive.Limits{}, &rootfs, &meta); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"metadata.yaml", "templates", "templates/hostname.tpl", "templates/started.tpl"},
		meta.names); d != "" {
		t.Error(d)
	}
	if rootfs.names[0] != "." || rootfs.names[1] != "bin" {
		t.Errorf("%v", rootfs.names[:5])
	}
}
