package volume_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// alter does to a volume what overlayfs remembers by handles and what it doesn't.
func alter(t *testing.T, v *volume.Volume) {
	t.Helper()
	root, end := volumetest.Mount(t, v, false)
	defer end()
	if err := errors.Join(
		appendTo(root+"/home/file", " of home"), // has another name, which isn't touched
		os.Rename(root+"/bin", root+"/sbin"),
		os.Chmod(root+"/sbin/su", 0o755), // without its content
		os.Remove(root+"/gone"),
		os.RemoveAll(root+"/etc"),
		os.Mkdir(root+"/etc", 0o700), // opaque
		os.WriteFile(root+"/etc/new", []byte("new"), 0o600),
		os.Link(root+"/etc/new", root+"/new"),
	); err != nil {
		t.Fatal(err)
	}
}

func appendTo(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// prepareLayered makes a volume on a layer that has all that alter changes: so what the
// index is of is no file of the image.
func prepareLayered(t *testing.T, p *volume.Pool, v *volume.Volume) {
	t.Helper()
	root, end := volumetest.Mount(t, v, false)
	err := errors.Join(os.Mkdir(root+"/etc", 0o755), os.WriteFile(root+"/etc/old", nil, 0o600),
		os.Link(root+"/etc/old", root+"/old"), os.Remove(root+"/home/link"), os.Remove(root+"/home/file"),
		os.WriteFile(root+"/home/file", []byte("in a layer"), 0o600), os.Link(root+"/home/file", root+"/home/link"),
		os.Link(root+"/home/file", root+"/another"), os.WriteFile(root+"/bin/x", nil, 0o644),
		os.Link(root+"/home/file", root+"/bin/link"))
	end()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Snapshot(t.Context(), "v", "below", nil); err != nil {
		t.Fatal(err)
	}
}

// TestCopiedPool copies a pool while nobody uses it, as a backup does, and looks whether
// the volumes of the copy are what they were, also after they were changed once more.
func TestCopiedPool(t *testing.T) {
	for _, where := range []string{"", "tmpfs", "xfs", "btrfs"} {
		for _, layered := range []bool{false, true} {
			for _, first := range []string{"mount", "snapshot"} {
				name := "here"
				if where != "" {
					name = where
				}
				if layered {
					name += " layered"
				}
				t.Run(name+" "+first, func(t *testing.T) { copiedPool(t, filesystem(t, where), layered, first) })
			}
		}
	}
}

func copiedPool(t *testing.T, target string, layered bool, first string) {
	from, to := filepath.Join(t.TempDir(), "pool"), filepath.Join(target, "copy")
	p, err := volume.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	if layered {
		prepareLayered(t, p, v)
	}
	alter(t, v)
	want := volumetest.Tree(t, v)
	if err := errors.Join(p.Settle(volumetest.Image), p.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %s", out)
	}

	p, err = volume.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		p.Quiet()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	if v, err = p.Get("v"); err != nil {
		t.Fatal(err)
	}
	if first == "snapshot" {
		if _, err := p.Snapshot(t.Context(), "v", "s", nil); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, volumetest.Tree(t, v)); d != "" {
		t.Fatalf("the copy (-want +got):\n%s", d)
	}
	root, end := volumetest.Mount(t, v, true)
	err = errors.Join(os.WriteFile(root+"/home/link", []byte("after"), 0o600), os.RemoveAll(root+"/etc"))
	b, rerr := os.ReadFile(root + "/home/file")
	end()
	if err := errors.Join(err, rerr); err != nil || string(b) != "after" {
		t.Errorf("a file has %q under its other name, %v", b, err)
	}
	want = volumetest.Tree(t, v)
	s, err := p.Snapshot(t.Context(), "v", "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, volumetest.Tree(t, s)); d != "" {
		t.Errorf("a snapshot of the copy (-want +got):\n%s", d)
	}
}

// TestCopiedLinks copies a pool with files that have several names in a layer, and were
// changed under some: each is still one file, and no other.
func TestCopiedLinks(t *testing.T) {
	for what, change := range map[string]func(root string) error{
		// Without its content, so that the upper layer says where that is.
		"renamed": func(root string) error {
			return errors.Join(os.Chmod(root+"/home/file", 0o644), os.Rename(root+"/home/file", root+"/renamed"))
		},
		"renamed into a new directory": func(root string) error {
			return errors.Join(os.RemoveAll(root+"/etc"), os.Mkdir(root+"/etc", 0o755),
				os.Chmod(root+"/home/file", 0o644), os.Rename(root+"/home/file", root+"/etc/old"))
		},
		"the last of its names": func(root string) error {
			return errors.Join(os.Remove(root+"/home/link"), os.Remove(root+"/another"), os.Remove(root+"/bin/link"),
				appendTo(root+"/home/file", " and after"), os.RemoveAll(root+"/etc"), os.Mkdir(root+"/etc", 0o755),
				os.Rename(root+"/home/file", root+"/etc/old"))
		},
		"the last of its names, in the place of another": func(root string) error {
			return errors.Join(os.Remove(root+"/home/link"), os.Remove(root+"/another"), os.Remove(root+"/bin/link"),
				appendTo(root+"/home/file", " and after"), os.Rename(root+"/home/file", root+"/etc/old"))
		},
		"changed, when another has lost a name": func(root string) error {
			return errors.Join(os.Remove(root+"/etc/old"), appendTo(root+"/home/file", " and after"))
		},
		"replaced by another": func(root string) error {
			return errors.Join(os.Remove(root+"/home/file"), os.WriteFile(root+"/home/file", []byte("new"), 0o600),
				os.Link(root+"/home/file", root+"/home/new"))
		},
		"replaced in a new directory": func(root string) error {
			return errors.Join(os.RemoveAll(root+"/bin"), os.Mkdir(root+"/bin", 0o755),
				os.WriteFile(root+"/bin/link", []byte("new"), 0o600), os.Link(root+"/bin/link", root+"/bin/new"))
		},
	} {
		t.Run(what, func(t *testing.T) { copiedLinks(t, change) })
	}
}

// copiedLinks also makes sure that what says that a volume is a copy stays until all else
// is on the disk.
func copiedLinks(t *testing.T, change func(root string) error) {
	from := filepath.Join(t.TempDir(), "pool")
	p, err := volume.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	prepareLayered(t, p, v)
	root, end := volumetest.Mount(t, v, false)
	err = change(root)
	end()
	if err != nil {
		t.Fatal(err)
	}
	want := volumetest.Tree(t, v)
	if err := errors.Join(p.Settle(volumetest.Image), p.Close()); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %s", out)
	}
	if v, err = openPool(t, to).Get("v"); err != nil {
		t.Fatal(err)
	}
	marks := func() (list [3]string) {
		for i, mark := range []string{"upper:origin", "work/index:origin", "work/index:upper"} {
			path, name, _ := strings.Cut(mark, ":")
			b := make([]byte, 256)
			if n, err := unix.Lgetxattr(filepath.Join(to, "volumes/v", path), "trusted.overlay."+name, b); err == nil {
				list[i] = string(b[:n])
			}
		}
		return list
	}
	before := marks()
	synced := 0
	stop := disk.Record(func(s disk.Step) {
		if s.Kind != disk.SyncedSystem || s.Path != filepath.Join(to, "volumes/v") {
			return
		}
		synced++
		entries, err := os.ReadDir(filepath.Join(s.Path, "work/index"))
		if marks() != before || err != nil || len(entries) > 0 {
			t.Errorf("marks were %q, are %q; the index has %v, %v", before, marks(), entries, err)
		}
	})
	got := volumetest.Tree(t, v)
	stop()
	if synced != 1 || before[0] == "" || marks()[0] == before[0] {
		t.Errorf("it was on the disk %d times; marks were %q, are %q", synced, before, marks())
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the copy (-want +got):\n%s", d)
	}
}
