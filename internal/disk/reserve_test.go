package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
)

// TestReserveOfSmallDisk: a small file system has a smaller reserve, which is given away
// when it is full and taken again when there is room.
func TestReserveOfSmallDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("kiln", dir, "tmpfs", 0, "size=60m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path, ballast := filepath.Join(dir, "reserve"), filepath.Join(dir, "ballast")
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	r := disk.NewReserve(path, 16<<20)
	if err := r.Keep(dir); err != nil {
		t.Fatal(err)
	}
	held := blocks()
	if held < 3<<20 || held > 4<<20 {
		t.Fatalf("%d bytes are kept of 60 MiB", held)
	}
	r = disk.NewReserve(path, 16<<20) // as the next daemon finds it
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<16))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := r.Keep(dir); err != nil || blocks() != held {
		t.Errorf("on a full disk %d bytes are kept, %v", blocks(), err)
	}
	given := 0
	for r.Give() {
		given++
	}
	if blocks() != 0 || given < 3 || given > 4 {
		t.Errorf("given away in %d pieces; %d bytes are kept", given, blocks())
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := r.Keep(dir); err != nil || blocks() != held {
		t.Errorf("with room again %d bytes are kept, %v", blocks(), err)
	}
}
