package instance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestSourceThatDoesNotAnswer looks for the source of a disk on a file system that nobody
// serves: who looks holds locks that others need, and gives up.
func TestSourceThatDoesNotAnswer(t *testing.T) {
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fuse.Close() // ends what waits for it, and every sync of the machine
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.Mkdir(silent, 0o700); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())
	if err := unix.Mount("silent", silent, "fuse", 0, options); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(silent, unix.MNT_DETACH)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errLate)
	defer cancel()
	s := &Set{}
	disk := map[string]map[string]string{"data": {"type": "disk", "source": filepath.Join(silent, "x"), "path": "/data"}}
	done := make(chan error, 1)
	go func() { done <- s.checkSources(ctx, disk) }()
	select {
	case err = <-done:
	case <-time.After(sourceTime):
		t.Fatal("a look at a source has no bound")
	}
	if kiln.KindOf(err) != kiln.Timeout {
		t.Errorf("%v (%v)", err, kiln.KindOf(err))
	}
}
