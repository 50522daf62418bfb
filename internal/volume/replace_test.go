package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// treePath is where the tree of the test image is in a pool.
func treePath(dir string) string {
	return filepath.Join(dir, "images", volumetest.Image.String(), "rootfs.erofs")
}

// settled makes a pool with one volume, whose image is gone.
func settled(t *testing.T) (p *volume.Pool, v *volume.Volume, dir string) {
	t.Helper()
	dir = t.TempDir()
	p = openPool(t, dir)
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err := errors.Join(err, p.Settle(volumetest.Image)); err != nil {
		t.Fatal(err)
	}
	p.Refill = gone
	return p, v, dir
}

func gone(context.Context, kiln.Fingerprint) (volume.Content, error) {
	return volume.Content{}, kiln.Errorf(kiln.NotFound, "no such image")
}

// failing is what to make a tree of that turns out not to be there.
func failing(err error) func(context.Context, kiln.Fingerprint) (volume.Content, error) {
	return func(context.Context, kiln.Fingerprint) (volume.Content, error) {
		return volume.Content{Unpack: func(context.Context, archive.TreeWriter, archive.TreeWriter) error { return err }}, nil
	}
}

func good(ctx context.Context, _ kiln.Fingerprint) (volume.Content, error) {
	return volumetest.Content(new(atomic.Int32))(ctx)
}

// fewFiles mounts a volume with ever more descriptors, until that goes well: nothing may
// become of the tree, whether its image is there or not.
func fewFiles(dir string) error {
	ctx := context.Background()
	p, err := volume.Open(dir)
	if err != nil {
		return err
	}
	v, err := p.Clone(ctx, "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err := errors.Join(err, p.Settle(volumetest.Image)); err != nil {
		return err
	}
	var was unix.Stat_t
	if err := unix.Stat(treePath(dir), &was); err != nil {
		return err
	}
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		return err
	}
	failed := 0
	for few, done := uint64(3), 0; done < 10; few++ {
		for _, p.Refill = range []func(context.Context, kiln.Fingerprint) (volume.Content, error){gone, good} {
			if err := p.Unmount(volumetest.Image); err != nil {
				return err
			}
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: few, Max: most.Max}); err != nil {
				return err
			}
			ready := v.Ready(ctx)
			meta, merr := v.Meta()
			f, err := v.Mount(ctx, nil)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
				return err
			}
			if meta != nil {
				meta.Close()
			}
			if err == nil {
				done++
				f.Close()
			} else {
				failed++
			}
			for _, err := range []error{ready, merr, err} {
				if err != nil && !errors.Is(err, unix.EMFILE) {
					return fmt.Errorf("with %d descriptors: %w", few, err)
				}
			}
			var now unix.Stat_t
			if err := unix.Stat(treePath(dir), &now); err != nil || now.Ino != was.Ino {
				return fmt.Errorf("with %d descriptors: another tree, %w", few, err)
			}
		}
		if few > most.Cur {
			return errors.New("it never goes well")
		}
	}
	lost, err := p.Lost()
	if failed == 0 || len(lost) > 0 {
		return fmt.Errorf("failed %d times, put away: %v", failed, lost)
	}
	return errors.Join(err, p.Close())
}

// TestFewDescriptors: a lack of descriptors is over some time, and a tree isn't touched
// because of it.
func TestFewDescriptors(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "KILN_FEW_FILES_CHILD="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNoNamespace: the pool can't look at a tree, which says nothing about the tree.
func TestNoNamespace(t *testing.T) {
	p, v, dir := settled(t)
	p.Refill = good
	before, err := os.Stat(treePath(dir))
	if err != nil {
		t.Fatal(err)
	}
	back, err := p.LeaveNamespace()
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Mount(t.Context(), nil)
	back()
	if !errors.Is(err, unix.EINVAL) || errors.Is(err, kiln.Integrity) {
		t.Errorf("%v", err)
	}
	if after, err := os.Stat(treePath(dir)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the tree: %v", err)
	}
	_, end := volumetest.Mount(t, v, false)
	end()
}

// TestDamagedSuperblock: a tree that the kernel doesn't take stays, until there is a whole
// one to take its place, and is put away then.
func TestDamagedSuperblock(t *testing.T) {
	const superblock = 1024
	for name, damage := range map[string]func(f *os.File) error{
		"magic":    func(f *os.File) error { _, err := f.WriteAt([]byte("four"), superblock); return err },
		"checksum": func(f *os.File) error { _, err := f.WriteAt([]byte("four"), superblock+4); return err },
		"begin":    func(f *os.File) error { _, err := f.WriteAt(make([]byte, 4096), 0); return err },
		"empty":    func(f *os.File) error { return f.Truncate(0) },
		"removed":  func(f *os.File) error { return os.Remove(f.Name()) },
	} {
		t.Run(name, func(t *testing.T) {
			p, v, dir := settled(t)
			if err := os.Chmod(treePath(dir), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(treePath(dir), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(damage(f), f.Close()); err != nil {
				t.Fatal(err)
			}
			left, _ := os.ReadFile(treePath(dir))
			image := filepath.Dir(treePath(dir))
			stays := func(when string) {
				t.Helper()
				b, _ := os.ReadFile(treePath(dir))
				if _, err := os.Stat(image + "/image.json"); err != nil || !bytes.Equal(b, left) {
					t.Errorf("%s: the tree isn't what it was, %v", when, err)
				}
				if list, err := p.Lost(); err != nil || len(list) > 0 {
					t.Errorf("%s: put away: %v, %v", when, list, err)
				}
			}
			if _, err := v.Mount(t.Context(), nil); !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), image) {
				t.Errorf("without the image: %v", err)
			}
			stays("without the image")
			p.Refill = failing(unix.ENOSPC)
			if _, err := v.Mount(t.Context(), nil); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), image) {
				t.Errorf("on a full disk: %v", err)
			}
			stays("on a full disk")

			p.Refill = good
			_, end := volumetest.Mount(t, v, false)
			end()
			list, err := p.Lost()
			if err != nil || len(list) != 1 || !list[0].Tree || list[0].Name != volumetest.Image.String() {
				t.Fatalf("put away: %+v, %v", list, err)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "lost", list[0].Entry, "rootfs.erofs")); !bytes.Equal(b, left) {
				t.Error("what was put away isn't the damaged tree")
			}
			// The new one doesn't go with a crash, as the old one wouldn't have.
			if _, err := os.Stat(image + "/unsynced"); err == nil {
				t.Error("the new tree isn't on the disk")
			}
			_, rest, _ := strings.Cut(list[0].Entry, "T")
			if err := errors.Join(os.Rename(dir+"/lost/"+list[0].Entry, dir+"/lost/"+longAgo()+rest), p.SweepLost()); err != nil {
				t.Fatal(err)
			}
			if list, err := p.Lost(); err != nil || len(list) > 0 {
				t.Errorf("after a week: %v, %v", list, err)
			}
		})
	}
}

// TestDamagedMetaKeepsTree: the files of an image that is said to be there aren't, which
// shows when they are unpacked. The tree beside the damaged metadata is untouched.
func TestDamagedMetaKeepsTree(t *testing.T) {
	p, v, dir := settled(t)
	before, err := os.Stat(treePath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Dir(treePath(dir))+"/meta/metadata.yaml", []byte("more"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Refill = failing(kiln.Errorf(kiln.NotFound, "no blob"))
	if _, err := v.Meta(); !errors.Is(err, kiln.Integrity) {
		t.Errorf("%v", err)
	}
	if after, err := os.Stat(treePath(dir)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the tree: %v", err)
	}
	if damage, err := p.RepairTree(t.Context(), volumetest.Image); damage == nil || err == nil {
		t.Errorf("repaired: %v, %v", damage, err)
	}
	if after, err := os.Stat(treePath(dir)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the tree: %v", err)
	}
	_, end := volumetest.Mount(t, v, false)
	end()
}

// TestTreeGoesWhileReceiving: somebody removes the tree that an arriving volume stands on
// while what arrived is written to the disk. A pinned one stays, and without it nothing
// arrives.
func TestTreeGoesWhileReceiving(t *testing.T) {
	p, _, _ := settled(t)
	s, err := p.Snapshot(t.Context(), "v", "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, pinned := range []bool{true, false} {
		dir := t.TempDir()
		other := openPool(t, dir)
		release := func() {}
		if pinned {
			release = other.Pin(volumetest.Image)
		}
		if err := other.Fill(t.Context(), volumetest.Image, volumetest.Content(new(atomic.Int32))); err != nil {
			t.Fatal(err)
		}
		r, err := carry(t.Context(), p, other, s.Stack())
		if err != nil {
			t.Fatal(err)
		}
		var removed error
		stop := disk.Record(func(step disk.Step) {
			if step.Kind == disk.SyncedSystem && strings.Contains(step.Path, "/tmp/") {
				removed = other.RemoveImage(volumetest.Image)
			}
		})
		err = r.Commit(t.Context(), "copy", s.Stack(), map[string]kiln.Stack{"kept": s.Stack()})
		stop()
		release()
		if cerr := r.Close(); cerr != nil {
			t.Error(cerr)
		}
		if pinned {
			if err != nil || !errors.Is(removed, kiln.Conflict) {
				t.Errorf("pinned: %v, %v", err, removed)
			}
			continue
		}
		if removed != nil || !errors.Is(err, kiln.NotFound) {
			t.Errorf("not pinned: %v, %v", removed, err)
		}
		for _, sub := range []string{"volumes", "snapshots", "layers"} {
			if left, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(left) > 0 {
				t.Errorf("left in %s: %v, %v", sub, left, err)
			}
		}
	}
}

// TestReplaceKeepsTime: what is put away is kept from now on, however old it is.
func TestReplaceKeepsTime(t *testing.T) {
	p, v, dir := settled(t)
	old := time.Now().Add(-2 * volume.LostTime)
	if err := errors.Join(os.Remove(filepath.Dir(treePath(dir))+"/image.json"), os.Chtimes(treePath(dir), old, old)); err != nil {
		t.Fatal(err)
	}
	p.Refill = good
	_, end := volumetest.Mount(t, v, false)
	end()
	if err := p.SweepLost(); err != nil {
		t.Fatal(err)
	}
	if list, err := p.Lost(); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}
