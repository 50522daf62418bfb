package volume_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeepLinks changes a file of the layer below under one of its names, beside directories
// deeper than any path is long, and in them: a snapshot has it under all of its names.
func TestDeepLinks(t *testing.T) {
	p := openPool(t, filepath.Join(t.TempDir(), "pool"))
	v, err := p.Empty(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	// The directory at the end of the chain, which only descriptors lead to.
	deep := func(root int, f func(fd int)) {
		fd, err := unix.Dup(root)
		for range 50 {
			name := strings.Repeat("d", 100)
			_ = unix.Mkdirat(fd, name, 0o755)
			var next int
			if next, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			fd = next
		}
		if err != nil {
			t.Fatal(err)
		}
		f(fd)
		unix.Close(fd)
	}
	change := func(f func(root string, fd int) error) {
		m, err := v.Mount(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		root := fmt.Sprintf("/proc/self/fd/%d/", m.Fd())
		fd, err := unix.Open(root+".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = f(root, fd)
		unix.Close(fd)
		if cerr := m.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
	}
	change(func(root string, fd int) (err error) {
		if err := os.WriteFile(root+"a", []byte("one"), 0o644); err != nil {
			return err
		}
		deep(fd, func(end int) { err = unix.Linkat(fd, "a", end, "b", 0) })
		return err
	})
	if _, err := p.Snapshot(t.Context(), "v", "s0", nil); err != nil {
		t.Fatal(err)
	}
	change(func(root string, _ int) error { return os.WriteFile(root+"a", []byte("two"), 0o644) })
	s, err := p.Snapshot(t.Context(), "v", "s1", nil)
	if err != nil {
		t.Fatalf("%.200s", err)
	}
	m, err := s.Mount(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d/.", m.Fd()), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	deep(fd, func(end int) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/b", end))
		if err != nil || string(b) != "two" {
			t.Errorf("%q, %v", b, err)
		}
	})
}
