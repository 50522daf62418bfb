package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestNote keeps a note as long as its volume, also where that is put away, and reads
// none that is too large.
func TestNote(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	if err := p.SetNote("v", []byte("x")); !errors.Is(err, kiln.NotFound) {
		t.Errorf("of no volume: %v", err)
	}
	if _, err := p.Empty(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Note("v"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("none: %v", err)
	}
	if err := errors.Join(p.SetNote("v", []byte("old")), p.SetNote("v", []byte("new"))); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Snapshot(t.Context(), "v", "s", nil); err != nil { // exchanges the directory
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if b, err := p.Note("v"); err != nil || string(b) != "new\n" {
			t.Errorf("%s: %q, %v", when, b, err)
		}
	}
	check("after a snapshot")
	if err := p.Lose("v"); err != nil {
		t.Fatal(err)
	}
	check("put away")
	lost, err := p.Lost()
	if err != nil || len(lost) != 1 {
		t.Fatal(lost, err)
	}
	if err := p.Find(lost[0]); err != nil {
		t.Fatal(err)
	}
	check("brought back")
	if err := p.SetNote("v", make([]byte, volume.MaxNote+1)); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	check("after one that is too large")
	path := filepath.Join(dir, "notes", "v.json")
	if err := os.Truncate(path, 2*volume.MaxNote); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Note("v"); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("one that grew: %v", err)
	}
	if err := p.Delete(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a deleted volume: %v", err)
	}
}
