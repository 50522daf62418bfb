package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/volume"
)

// TestSweptNotes puts a volume away and brings it back while old notes are swept: its note
// stays all the time.
func TestSweptNotes(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	if _, err := p.Empty(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if err := p.SetNote("v", []byte("x")); err != nil {
		t.Fatal(err)
	}
	old, path := time.Now().Add(-2*volume.LostTime), filepath.Join(dir, "notes", "v.json")
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var sweeps sync.WaitGroup
	sweeps.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := p.SweepLost(); err != nil {
				t.Error(err)
			}
		}
	})
	for range 60 {
		err := p.Lose("v")
		lost, lerr := p.Lost()
		if err := errors.Join(err, lerr); err != nil || len(lost) != 1 {
			t.Error(lost, err)
			break
		}
		if err := p.Find(lost[0]); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	sweeps.Wait()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
