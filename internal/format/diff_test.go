package format

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// one is a stream of one unified image.
type one struct {
	*bytes.Reader
	read bool
}

func (s *one) Next() (kiln.File, error) {
	if s.read {
		return kiln.File{}, io.EOF
	}
	s.read = true
	return kiln.File{Role: kiln.Unified}, nil
}
func (s *one) Close() error { return nil }

func summary(t *testing.T, files ...formattest.File) *Summary {
	t.Helper()
	all := append(formattest.Meta(), formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
	b := formattest.Tar(t, append(all, files...)...)
	sum, err := Summarise(t.Context(), &one{Reader: bytes.NewReader(b)}, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestDiff(t *testing.T) {
	const old = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: gone\nStatus: deinstall ok " +
		"config-files\nVersion: 3\n"
	const now = "Package: a\nStatus: install ok installed\nVersion: 2\n\nPackage: b\nStatus: install ok " +
		"installed\nVersion: 1:1-1\n"
	before := summary(t,
		formattest.File{Name: "rootfs/same", Body: "x"},
		formattest.File{Name: "rootfs/text", Body: "abc"},
		formattest.File{Name: "rootfs/mode", Body: "x", Mode: 0o600},
		formattest.File{Name: "rootfs/link", Type: '2', Link: "a"},
		formattest.File{Name: "rootfs/old", Body: "12345"},
		formattest.File{Name: "rootfs/var/lib/dpkg/status", Body: old})
	after := summary(t,
		formattest.File{Name: "rootfs/same", Body: "x"},
		formattest.File{Name: "rootfs/text", Body: "abcd"},
		formattest.File{Name: "rootfs/mode", Body: "x", Mode: 0o644},
		formattest.File{Name: "rootfs/link", Type: '2', Link: "b"},
		formattest.File{Name: "rootfs/new", Body: "1"},
		formattest.File{Name: "rootfs/var/lib/dpkg/status", Body: now})
	files, packages, err := Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	want := []FileDiff{
		{"link", Changed, 0, 0}, {"mode", Attrs, 1, 1}, {"new", Added, 0, 1}, {"old", Removed, 5, 0}, {"text", Changed, 3, 4},
		{"var/lib/dpkg/status", Changed, int64(len(old)), int64(len(now))},
	}
	if d := cmp.Diff(want, files); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]PackageDiff{{"a", "1", "2"}, {"b", "", "1:1-1"}}, packages); d != "" {
		t.Error(d)
	}
	if files, packages, err := Diff(before, before); files != nil || packages != nil || err != nil {
		t.Errorf("an image differs from itself: %v %v %v", files, packages, err)
	}
	twice := summary(t, formattest.File{Name: "rootfs/a", Body: "1"}, formattest.File{Name: "rootfs/a", Body: "22"})
	if files, _, err := Diff(summary(t), twice); len(files) != 1 || files[0].After != 2 || err != nil {
		t.Errorf("a file that came twice: %v %v", files, err)
	}
}
