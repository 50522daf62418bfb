package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestKeep puts a volume away for good: no sweep removes it, until somebody does.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	if _, err := p.Empty(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Keep("v"), p.Keep("nothing"), p.KeepSnapshot("nothing")); err != nil {
		t.Fatal(err)
	}
	list, err := p.Lost()
	if err != nil || len(list) != 1 || !list[0].Kept {
		t.Fatalf("%+v, %v", list, err)
	}
	// As if that had been long ago.
	_, rest, _ := strings.Cut(list[0].Entry, "T")
	if err := errors.Join(os.Rename(filepath.Join(dir, "lost", list[0].Entry), filepath.Join(dir, "lost", longAgo()+rest)),
		p.SweepLost()); err != nil {
		t.Fatal(err)
	}
	if list, err = volume.ListLost(dir); err != nil || len(list) != 1 || time.Since(list[0].At) < volume.LostTime {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := p.Find(list[0]); err != nil {
		t.Fatal(err)
	}
	if err := p.Lose("v"); err != nil {
		t.Fatal(err)
	}
	if list, err = p.Lost(); err != nil || len(list) != 1 || list[0].Kept {
		t.Fatalf("found and lost again: %+v, %v", list, err)
	}
	if err := volume.DropLost(dir, list[0]); err != nil {
		t.Error(err)
	}
	if err := volume.DropLost(dir, list[0]); !errors.Is(err, kiln.NotFound) {
		t.Errorf("twice: %v", err)
	}
}
