package disk_test

import (
	"os"
	"path/filepath"
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
