package rootfd

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRenames opens a path with ".." in it while directories are renamed all the time.
func TestRenames(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	other := t.TempDir()
	if err := os.Mkdir(other+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for !stop.Load() {
			_, _ = os.Rename(other+"/x", other+"/y"), os.Rename(other+"/y", other+"/x")
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_RDONLY, Resolve: unix.RESOLVE_IN_ROOT}
	disturbed := 0
	for range 20_000 {
		if fd, err := unix.Openat2(root, "a/b/c/../../f", &how); err == unix.EAGAIN {
			disturbed++
		} else if err == nil {
			unix.Close(fd)
		}
		fd, err := Openat2(root, "a/b/c/../../f", how)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	t.Logf("%d of 20,000 look-ups were disturbed", disturbed)
}
