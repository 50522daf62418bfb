package remote

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

func TestFiles(t *testing.T) {
	m, r := formattest.Split(t)
	meta, rootfs := formattest.Write(t, "m.tar", m), formattest.Write(t, "r.tar", r)
	for _, paths := range [][]string{{meta, rootfs}, {rootfs, meta}} {
		s, err := Files{paths}.Open(t.Context(), kiln.Image{})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			role kiln.Role
			b    []byte
		}{{kiln.Metadata, m}, {kiln.Rootfs, r}} {
			f, err := s.Next()
			if err != nil || f.Role != want.role || f.Size != int64(len(want.b)) {
				t.Errorf("%v: %+v, %v", paths, f, err)
			}
			if b, err := io.ReadAll(s); err != nil || !bytes.Equal(b, want.b) {
				t.Errorf("%s: other bytes, %v", want.role, err)
			}
		}
		if _, err := s.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		s.Close()
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/metadata.yaml", []byte("x"), 0o644)
	var first []byte
	for range 2 {
		s, err := Files{[]string{dir}}.Open(t.Context(), kiln.Image{})
		if err != nil {
			t.Fatal(err)
		}
		if f, err := s.Next(); f.Size != -1 || err != nil {
			t.Errorf("%+v, %v", f, err)
		}
		b, err := io.ReadAll(s)
		if err != nil || first != nil && !bytes.Equal(b, first) {
			t.Errorf("the same directory gives other bytes: %v", err)
		}
		first = b
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s, err := Files{[]string{dir}}.Open(t.Context(), kiln.Image{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // unread
		t.Error(err)
	}
}

func TestBadPaths(t *testing.T) {
	dir := t.TempDir()
	file := formattest.Write(t, "f", []byte("x"))
	for _, c := range []struct {
		paths []string
		kind  kiln.Kind
	}{
		{nil, kiln.Invalid}, {[]string{file, file, file}, kiln.Invalid}, {[]string{"/nowhere"}, kiln.NotFound},
		{[]string{dir, file}, kiln.Invalid}, {[]string{"/dev/null"}, kiln.Invalid},
	} {
		if _, err := (Files{c.paths}).Find(t.Context(), ""); kiln.KindOf(err) != c.kind {
			t.Errorf("%v: %v", c.paths, err)
		}
	}
}

// TestPlainHTTP: servers and their mirrors are asked over plain http only where somebody
// allowed it.
func TestPlainHTTP(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		allow   func() bool
		servers []string
		ok      bool
	}{
		{nil, []string{"https://a", "https://b"}, true}, {nil, []string{"http://a"}, false}, {no, []string{"http://a"}, false},
		{no, []string{"https://a", "http://b"}, false}, {yes, []string{"http://a", "http://b"}, true},
		{yes, []string{"ftp://a"}, false}, {yes, []string{"http://a", "file:///b"}, false}, {yes, []string{"a"}, false},
	} {
		o := &Opener{AllowHTTP: c.allow}
		_, err := o.HTTP(kiln.Remote{Server: c.servers[0], Mirrors: c.servers[1:]})
		if c.ok && err != nil || !c.ok && !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", c.servers, err)
		}
	}
}
