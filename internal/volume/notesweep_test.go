package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
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

// TestSweptNotesOfNothing: the note of a volume that is gone goes after a while, but not when
// a row names it: that will be made again of the note.
func TestSweptNotesOfNothing(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.OpenFor(dir, func() (volumes, snapshots []string, err error) { return []string{"row"}, nil, nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, age := range map[string]time.Duration{"old": 2 * volume.LostTime, "young": volume.LostTime / 2,
		"row": 2 * volume.LostTime} {
		path, at := filepath.Join(dir, "notes", name+".json"), time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	killed, old := filepath.Join(dir, "notes", ".new-123"), time.Now().Add(-2*volume.LostTime) // who wrote it
	if err := errors.Join(os.WriteFile(killed, nil, 0o600), os.Chtimes(killed, old, old)); err != nil {
		t.Fatal(err)
	}
	if err := p.SweepLost(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what wasn't finished: %v", err)
	}
	if left, err := volume.Notes(dir); err != nil || !slices.Equal(slices.Sorted(slices.Values(left)), []string{"row", "young"}) {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestRepairedTreeIsUnmounted: who starts after the tree of an image was made again sees
// the new one, and who runs on the old one goes on.
func TestRepairedTreeIsUnmounted(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	content := volumetest.Content(new(atomic.Int32))
	v, err := p.Clone(t.Context(), "v", volumetest.Image, content)
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.Clone(t.Context(), "w", volumetest.Image, content)
	if err != nil {
		t.Fatal(err)
	}
	root, end := volumetest.Mount(t, v, false)
	defer end()
	p.Refill = func(context.Context, kiln.Fingerprint) (volume.Content, error) {
		return volume.Content{Unpack: func(_ context.Context, rootfs, meta archive.TreeWriter) error {
			err := meta.Add(&archive.Entry{Path: "metadata.yaml", Type: archive.Regular, Mode: 0o644, Size: 2},
				strings.NewReader("a\n"))
			for _, name := range []string{".", "new"} {
				err = errors.Join(err, rootfs.Add(&archive.Entry{Path: name, Type: archive.Dir, Mode: 0o755}, nil))
			}
			return err
		}}, nil
	}
	if err := os.WriteFile(filepath.Join(dir, "images", volumetest.Image.String(), "meta", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if damage, err := p.RepairTree(t.Context(), volumetest.Image); err != nil || !errors.Is(damage, kiln.Integrity) {
		t.Fatal(damage, err)
	}
	if damage, err := p.RepairTree(t.Context(), volumetest.Image); err != nil || damage != nil {
		t.Error(damage, err)
	}
	again, done := volumetest.Mount(t, w, false)
	defer done()
	if _, err := os.Stat(filepath.Join(again, "new")); err != nil {
		t.Errorf("the new tree: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "gone")); string(b) != "to be deleted" {
		t.Errorf("who runs on the old one reads %q, %v", b, err)
	}
}
