package disk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
)

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestReserveIsTriedOnce: a reserve that can't be had is an error once, not of everybody
// who asks again.
func TestReserveIsTriedOnce(t *testing.T) {
	path := t.TempDir() // no file
	r := disk.NewReserve(path, 16<<10)
	if err := r.Keep(filepath.Dir(path)); err == nil {
		t.Error("a directory is a reserve")
	}
	if err := r.Keep(filepath.Dir(path)); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// TestReserveTooSmall: a file that has less than a reserve is filled up.
func TestReserveTooSmall(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "reserve")
	if err := os.WriteFile(path, make([]byte, 4<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	const most = 4 << 20
	if err := disk.NewReserve(path, most).Keep(dir); err != nil || allocated(t, path) < most {
		t.Errorf("%d bytes, %v", allocated(t, path), err)
	}
}

// TestReserveLeavesNothing: what was taken before the room was at its end is given back.
func TestReserveLeavesNothing(t *testing.T) {
	full, dir := t.TempDir(), t.TempDir() // dir has the room that the other's file system hasn't
	if err := unix.Mount("kiln", full, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(full, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(full, "reserve")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.NewReserve(path, 4<<20).Keep(dir); err == nil || allocated(t, path) != 0 {
		t.Errorf("%d bytes are kept, %v", allocated(t, path), err)
	}
}

// memoryDisk mounts a file system in memory.
func memoryDisk(t *testing.T, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("kiln", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestReserveFewFiles: where hardly a file can be made there are no small ones, however much
// room there is; a reserve that somebody has removed is taken again; and what is to be left
// isn't given to anybody.
func TestReserveFewFiles(t *testing.T) {
	dir := memoryDisk(t, "size=256m,nr_inodes=8")
	path := filepath.Join(dir, "reserve")
	const most = 4 << 20
	r := disk.NewReserve(path, most)
	if err := r.Keep(dir); err != nil || allocated(t, path) != most {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(path + ".d"); len(list) > 0 {
		t.Errorf("of the few files that there can be, the reserve has %d", len(list))
	}
	if err := os.Remove(path); err != nil || r.Give() {
		t.Errorf("given away from nothing, %v", err)
	}
	if err := r.Keep(dir); err != nil || allocated(t, path) != most {
		t.Errorf("it isn't taken again: %v", err)
	}
	tries := 0
	full := func() error { tries++; return unix.ENOSPC }
	if err := r.Use(most/2, full); err != unix.ENOSPC || allocated(t, path) != most/2 || tries != 3 {
		t.Errorf("%d bytes are left after %d tries, %v", allocated(t, path), tries, err)
	}
}

// TestPreallocateFull: a file that gets no room is told of.
func TestPreallocateFull(t *testing.T) {
	dir := memoryDisk(t, "size=64m")
	path := filepath.Join(dir, "log")
	if err := disk.Preallocate(path, 1<<20); err != nil || allocated(t, path) != 1<<20 {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<16))
	}
	if err := disk.Preallocate(other, 1<<20); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
}

// TestReserveOfTrees: on btrfs a small file counts by what it is filled with, which a copy of
// it may not have; and what is given away is there for whoever comes next.
func TestReserveOfTrees(t *testing.T) {
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{{"truncate", "-s", "128M", img}, {"mkfs.btrfs", "-q", img},
		{"mount", "-o", "loop", img, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
	})
	path := filepath.Join(dir, "reserve")
	small := filepath.Join(path+".d", "0")
	if err := errors.Join(os.Mkdir(path+".d", 0o700), os.WriteFile(small, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := disk.NewReserve(path, 1<<20)
	if err := r.Keep(dir); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Llistxattr(small, nil); n == 0 || err != nil {
		t.Errorf("an empty file is the reserve, %v", err)
	}
	var steps []disk.Step
	defer disk.Record(func(s disk.Step) { steps = append(steps, s) })()
	if want := (disk.Step{Kind: disk.SyncedSystem, Path: dir}); !r.Give() || !slices.Contains(steps, want) {
		t.Errorf("what is given away can't be had yet: %v", steps)
	}
}
