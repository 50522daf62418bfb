// Package disktest makes file systems that misbehave, for tests. It knows nothing of what is
// tried on them.
package disktest

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Silent mounts a file system at a directory that never answers, until end lets all go that
// wait for it: syncs of the whole machine among them, so that has to be soon.
func Silent(t testing.TB, dir string) (end func()) {
	t.Helper()
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("silent", dir, "fuse", 0,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.Close(fuse) // who waits gets an error
		unix.Unmount(dir, unix.MNT_DETACH)
	}
}
