package store

import (
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestSweepBetweenFileAndRow looks for files that no image has at the moment at which an
// import's file is there and its row isn't yet: the file stays.
func TestSweepBetweenFileAndRow(t *testing.T) {
	s := open(t, t.TempDir())
	image := formattest.Tiny(t, "x")
	fp := sumOf(image)
	swept := make(chan error, 1)
	var once sync.Once
	stop := disk.Record(func(step disk.Step) {
		if step.Kind != disk.Renamed || step.Path != s.blobs.Path(fp) {
			return
		}
		once.Do(func() {
			go func() { swept <- s.dropUnused(t.Context(), []kiln.File{{Hash: fp}}) }()
			select {
			case err := <-swept: // it has overtaken the import
				swept <- err
			case <-time.After(300 * time.Millisecond): // it waits for the row, or will
			}
		})
	})
	defer stop()
	if _, err := s.Put(t.Context(), kiln.Image{}, files(image)); err != nil {
		t.Fatal(err)
	}
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), fp); err != nil {
		t.Error(err)
	}
}

// TestTruncatedFile has a file of an image lose its end, grow, and go: the image isn't
// here then, and is when it was imported again.
func TestTruncatedFile(t *testing.T) {
	s := open(t, t.TempDir())
	image := formattest.Tiny(t, "x")
	fp := sumOf(image)
	for what, damage := range map[string]func(string) error{
		"nothing": nil,
		"shorter": func(p string) error { return os.Truncate(p, int64(len(image))-1) },
		"longer":  func(p string) error { return os.Truncate(p, int64(len(image))+1) },
		"empty":   func(p string) error { return os.Truncate(p, 0) },
		"gone":    os.Remove,
	} {
		_, err := s.Put(t.Context(), kiln.Image{}, files(image))
		if err != nil && kiln.KindOf(err) != kiln.Conflict {
			t.Fatal(err)
		}
		if has, err := s.Has(t.Context(), fp); !has || err != nil {
			t.Errorf("before %s: has %v, %v", what, has, err)
		}
		if damage == nil {
			continue
		}
		if err := damage(s.blobs.Path(fp)); err != nil {
			t.Fatal(err)
		}
		if has, err := s.Has(t.Context(), fp); has || err != nil {
			t.Errorf("%s: has %v, %v", what, has, err)
		}
	}
}
