package volume_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// filesystem makes a file system in a file and mounts it.
func filesystem(t *testing.T, kind string) string {
	t.Helper()
	dir := t.TempDir()
	if kind == "" {
		return dir
	}
	args := []string{"-t", kind, "none", dir}
	if kind != "tmpfs" {
		img := filepath.Join(t.TempDir(), "disk")
		if err := errorsOf(os.WriteFile(img, nil, 0o600), os.Truncate(img, 400<<20)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs."+kind, img).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.%s: %s", kind, out)
		}
		args = []string{"-o", "loop", img, dir}
	}
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Fatalf("mount %v: %s", args, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("something holds the file system: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestPool(t *testing.T) {
	for _, kind := range []string{"", "btrfs", "xfs", "tmpfs"} {
		name := kind
		if name == "" {
			name = "here"
		}
		t.Run(name, func(t *testing.T) {
			if kind == "" || kind == "tmpfs" {
				volumetest.Run(t, func(t *testing.T) string { return filesystem(t, kind) })
				return
			}
			disk := filesystem(t, kind)
			volumetest.Run(t, func(t *testing.T) string {
				dir := filepath.Join(disk, strings.ReplaceAll(t.Name(), "/", ":"))
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				return dir
			})
		})
	}
}

// TestCloneCopiesNothing counts what a warm clone takes.
func TestCloneCopiesNothing(t *testing.T) {
	p, err := volume.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var filled atomic.Int32
	for _, name := range []string{"a", "b"} {
		if _, err := p.Clone(t.Context(), name, volumetest.Image, volumetest.Content(&filled)); err != nil {
			t.Fatal(err)
		}
	}
	v, err := p.Get("b")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := v.Usage(t.Context()); n > 8192 || err != nil {
		t.Errorf("a clone takes %d bytes, %v", n, err)
	}
	if filled.Load() != 1 {
		t.Errorf("filled %d times", filled.Load())
	}
}

func BenchmarkClone(b *testing.B) {
	p, err := volume.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	var filled atomic.Int32
	for b.Loop() {
		if _, err := p.Clone(b.Context(), "a", volumetest.Image, volumetest.Content(&filled)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := p.Delete(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkMount(b *testing.B) {
	p, err := volume.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	var filled atomic.Int32
	v, err := p.Clone(b.Context(), "a", volumetest.Image, volumetest.Content(&filled))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, end := volumetest.Mount(b, v, true)
		end()
	}
}

// BenchmarkSnapshot takes snapshots of a volume at rest in which little changed.
func BenchmarkSnapshot(b *testing.B) {
	p, err := volume.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	v, err := p.Clone(b.Context(), "a", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		root, end := volumetest.Mount(b, v, false)
		if err := os.WriteFile(root+"/file", []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
		end()
		b.StartTimer()
		if _, err := p.Snapshot(b.Context(), "a", strconv.Itoa(i), nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRestore goes back to one snapshot again and again.
func BenchmarkRestore(b *testing.B) {
	p, err := volume.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Clone(b.Context(), "a", volumetest.Image, volumetest.Content(new(atomic.Int32))); err != nil {
		b.Fatal(err)
	}
	if _, err := p.Snapshot(b.Context(), "a", "s", nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := p.Restore(b.Context(), "a", "s"); err != nil {
			b.Fatal(err)
		}
	}
}
