package volume_test

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestSweepBetweenLayerAndRecord looks for layers that nobody names at the moment at which
// those of a volume that arrives are there and its record isn't yet: they stay.
func TestSweepBetweenLayerAndRecord(t *testing.T) {
	from, to := openPool(t, t.TempDir()), openPool(t, t.TempDir())
	v, err := from.Empty(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	root, end := volumetest.Mount(t, v, false)
	if err := disk.WriteBytes(root+"/file", 0o600, []byte("content")); err != nil {
		t.Fatal(err)
	}
	end()
	s, err := from.Snapshot(t.Context(), "v", "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := carry(t.Context(), from, to, s.Stack())
	if err != nil {
		t.Fatal(err)
	}
	swept := make(chan error, 1)
	var once sync.Once
	stop := disk.Record(func(step disk.Step) {
		if step.Kind != disk.Renamed || !strings.Contains(step.Path, "/layers/") {
			return
		}
		once.Do(func() {
			go func() { swept <- to.SweepLayers() }()
			select {
			case err := <-swept: // it has overtaken the arrival
				swept <- err
			case <-time.After(300 * time.Millisecond): // it waits for the record, or will
			}
		})
	})
	defer stop()
	err = r.Commit(t.Context(), "copy", s.Stack(), map[string]kiln.Stack{"kept": s.Stack()})
	if err := errors.Join(err, r.Close(), <-swept); err != nil {
		t.Fatal(err)
	}
	stop()
	c, err := to.Get("copy")
	if err != nil {
		t.Fatal(err)
	}
	root, end = volumetest.Mount(t, c, true)
	defer end()
	if b, err := os.ReadFile(root + "/file"); string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}
