package volume_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// deep is an image with directories in directories.
func deep(context.Context) (volume.Content, error) {
	return volume.Content{Unpack: func(_ context.Context, rootfs, _ archive.TreeWriter) error {
		var errs []error
		add := func(e archive.Entry, body string) {
			e.Size, e.ModTime = int64(len(body)), time.Unix(1_700_000_000, 0) // a tmpfs keeps even year 1
			errs = append(errs, rootfs.Add(&e, strings.NewReader(body)))
		}
		add(archive.Entry{Path: ".", Type: archive.Dir, Mode: 0o755}, "")
		for _, a := range []string{"a", "b", "c"} {
			add(archive.Entry{Path: a, Type: archive.Dir, Mode: 0o755}, "")
			add(archive.Entry{Path: a + "/1", Type: archive.Regular, Mode: 0o644}, "image's "+a)
			add(archive.Entry{Path: a + "/2", Type: archive.Hardlink, Link: a + "/1"}, "")
			for _, b := range []string{"d", "e"} {
				add(archive.Entry{Path: a + "/" + b, Type: archive.Dir, Mode: 0o755}, "")
				add(archive.Entry{Path: a + "/" + b + "/3", Type: archive.Regular, Mode: 0o644}, "image's "+a+b)
				add(archive.Entry{Path: a + "/" + b + "/f", Type: archive.Dir, Mode: 0o755}, "")
				add(archive.Entry{Path: a + "/" + b + "/f/4", Type: archive.Regular, Mode: 0o644}, "image's "+a+b+"f")
			}
		}
		return errors.Join(errs...)
	}}, nil
}

// work does one thing at random somewhere in a tree.
func work(r *rand.Rand, root string) error {
	var dirs, files []string
	err := filepath.WalkDir(root+"/.", func(path string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			dirs = append(dirs, path)
		} else {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	dir := dirs[r.IntN(len(dirs))]
	file := dirs[r.IntN(len(dirs))] + "/new"
	if len(files) > 0 {
		file = files[r.IntN(len(files))]
	}
	name := fmt.Sprintf("%s/%c", dirs[r.IntN(len(dirs))], 'a'+rune(r.IntN(12)))
	switch r.IntN(12) {
	case 0:
		err = os.Mkdir(name, 0o755)
	case 1, 2:
		err = os.WriteFile(name, fmt.Append(nil, r.IntN(1000)), 0o644)
	case 3:
		err = os.WriteFile(file, fmt.Append(nil, r.IntN(1000)), 0o644)
	case 4, 5:
		err = os.Rename(dir, name)
	case 6:
		err = os.Rename(file, name)
	case 7:
		if dir != root && r.IntN(3) == 0 {
			err = os.RemoveAll(dir)
		} else {
			err = os.Remove(file)
		}
	case 8:
		err = os.Chmod(file, 0o600+fs.FileMode(r.IntN(64)))
	case 9:
		err = os.Chmod(dir, 0o700+fs.FileMode(r.IntN(64)))
	case 10:
		err = os.Link(file, name)
	case 11:
		err = unix.Lsetxattr(dir, "trusted.note", fmt.Append(nil, r.IntN(1000)), 0)
	}
	if err != nil && (errors.Is(err, unix.EIO) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EXDEV) ||
		errors.Is(err, unix.EUCLEAN)) {
		return err // overlayfs doesn't like its layers
	}
	return nil // the rest is what was tried
}

// still is a pause of what stands still anyway.
func still(context.Context) (func() error, error) { return func() error { return nil }, nil }

// TestMergeLooksTheSame takes snapshots of volumes that came about by chance, and
// merges any neighbours of their stacks.
func TestMergeLooksTheSame(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			p, err := volume.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			r := rand.New(rand.NewPCG(seed, 1))
			v, err := p.Clone(t.Context(), "v", volumetest.Image, deep)
			if err != nil {
				t.Fatal(err)
			}
			var last *volume.Snapshot
			for i := range 7 {
				root, end := volumetest.Mount(t, v, false)
				for range 25 {
					if err := work(r, root); err != nil {
						t.Fatal(err)
					}
				}
				end()
				before := volumetest.Tree(t, v)
				live, err := p.Snapshot(t.Context(), "v", fmt.Sprint("live", i), still)
				if err != nil {
					t.Fatal(err)
				}
				if last, err = p.Snapshot(t.Context(), "v", fmt.Sprint(i), nil); err != nil {
					t.Fatal(err)
				}
				for what, m := range map[string]volumetest.Mounter{"in use": live, "at rest": last, "the volume": v} {
					if d := cmp.Diff(before, volumetest.Tree(t, m)); d != "" {
						t.Fatalf("snapshot %d, %s (-want +got):\n%s", i, what, d)
					}
				}
			}
			want := volumetest.Tree(t, last)
			for range 6 {
				from := r.IntN(last.Depth() - 1)
				to := from + 2 + r.IntN(last.Depth()-from-1)
				m, err := p.WithMerged(t.Context(), last, from, to)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, volumetest.Tree(t, m)); d != "" {
					t.Fatalf("layers %d to %d of %d merged (-want +got):\n%s", from, to, last.Depth(), d)
				}
				if last = m; last.Depth() < 2 {
					break
				}
			}
		})
	}
}

// below gives the last of directories below one that are deeper than any path is long. It
// makes those that aren't there.
func below(t *testing.T, top string) *os.File {
	t.Helper()
	fd, err := unix.Open(top, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range 25 {
		name := strings.Repeat("d", 200)
		if merr := unix.Mkdirat(fd, name, 0o755); merr != nil && merr != unix.EEXIST {
			t.Fatal(merr)
		}
		next, nerr := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd, err = next, errors.Join(err, nerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "below")
}

// TestMergeDeep merges layers whose directories are deeper than any path is long, also below
// one that was moved.
func TestMergeDeep(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			p, err := volume.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			r := rand.New(rand.NewPCG(seed, 2))
			v, err := p.Clone(t.Context(), "v", volumetest.Image, deep)
			if err != nil {
				t.Fatal(err)
			}
			tops := []string{"/a", "/b/moved", "/c/d/f/again"} // a is in the image, too
			top := 0
			tree := func(m volumetest.Mounter) map[string]string {
				root, err := m.Mount(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer root.Close()
				d := below(t, fmt.Sprintf("/proc/self/fd/%d%s", root.Fd(), tops[top]))
				defer d.Close()
				return volumetest.TreeAt(t, d)
			}
			var last *volume.Snapshot
			for i := range 8 {
				root, end := volumetest.Mount(t, v, false)
				d := below(t, root+tops[top])
				for range 25 {
					err := work(r, fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
					if err != nil && !errors.Is(err, unix.EXDEV) { // overlayfs wants short paths to move a directory
						t.Fatal(err)
					}
				}
				d.Close()
				if next := r.IntN(len(tops)); next != top {
					if err := os.Rename(root+tops[top], root+tops[next]); err != nil {
						t.Fatal(err)
					}
					top = next
				}
				end()
				if last, err = p.Snapshot(t.Context(), "v", fmt.Sprint(i), nil); err != nil {
					t.Fatal(err)
				}
			}
			want := tree(last)
			if len(want) < 3 {
				t.Errorf("there is little: %v", want)
			}
			for last.Depth() > 1 {
				from := r.IntN(last.Depth() - 1)
				to := from + 2 + r.IntN(last.Depth()-from-1)
				if last, err = p.WithMerged(t.Context(), last, from, to); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, tree(last)); d != "" {
					t.Fatalf("layers %d to %d merged (-want +got):\n%s", from, to, d)
				}
			}
		})
	}
}

// TestDepth has many snapshots on few layers, which go with the snapshots, of a file that is
// deeper than any path is long.
func TestDepth(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	const n = 80
	var names []string
	for i := range n {
		root, end := volumetest.Mount(t, v, false)
		d := below(t, root)
		if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/file", d.Fd()), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
		d.Close()
		end()
		names = append(names, fmt.Sprint(i))
		if _, err := p.Snapshot(t.Context(), "v", names[i], nil); err != nil {
			t.Fatal(err)
		}
		p.Quiet()
		if d := p.Depth("v"); d > 17 {
			t.Fatalf("%d layers after %d snapshots", d, i+1)
		}
		// A merged layer that nobody names yet waits for the next snapshot.
		before, err := os.ReadDir(dir + "/layers")
		if err := errors.Join(err, p.SweepLayers()); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadDir(dir + "/layers"); len(after) != len(before) || err != nil {
			t.Fatalf("of %d layers after %d snapshots a sweep leaves %d, %v", len(before), i+1, len(after), err)
		}
	}
	if err := p.DeleteSnapshots(t.Context(), names...); err != nil {
		t.Fatal(err)
	}
	// One may wait for the next snapshot.
	if left, err := os.ReadDir(dir + "/layers"); len(left) > p.Depth("v")+1 || err != nil {
		t.Errorf("%d layers left for a volume on %d, %v", len(left), p.Depth("v"), err)
	}
	if err := p.Delete(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir + "/layers"); len(left) != 0 || err != nil {
		t.Errorf("%d layers left for nobody, %v", len(left), err)
	}
}
