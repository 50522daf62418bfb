package instance

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk/disktest"
)

// TestSourceThatDoesNotAnswer looks for the source of a disk on a file system that nobody
// serves: who looks holds locks that others need, and gives up.
func TestSourceThatDoesNotAnswer(t *testing.T) {
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.Mkdir(silent, 0o700); err != nil {
		t.Fatal(err)
	}
	defer disktest.Silent(t, silent)()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errLate)
	defer cancel()
	s := &Set{}
	disk := map[string]map[string]string{"data": {"type": "disk", "source": filepath.Join(silent, "x"), "path": "/data"}}
	done := make(chan error, 1)
	go func() { done <- s.checkSources(ctx, disk) }()
	var err error
	select {
	case err = <-done:
	case <-time.After(sourceTime):
		t.Fatal("a look at a source has no bound")
	}
	if kiln.KindOf(err) != kiln.Timeout {
		t.Errorf("%v (%v)", err, kiln.KindOf(err))
	}
}
