package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestLost puts a volume with a snapshot away and brings it back: what it stands on
// stays, until its time is over.
func TestLost(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	root, end := volumetest.Mount(t, v, false)
	if err := os.WriteFile(root+"/x", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := p.Snapshot(t.Context(), "v", "s", nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Lose("v"), p.LoseSnapshot("s"), p.Lose("nothing")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get("v"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if err := p.RemoveImage(volumetest.Image); !errors.Is(err, kiln.Conflict) {
		t.Errorf("its image's tree: %v", err)
	}
	if err := p.SweepLost(); err != nil {
		t.Fatal(err)
	}
	list, err := p.Lost()
	if err != nil || len(list) != 2 || list[0].Name == list[1].Name {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, l := range list {
		if err := p.Find(l); err != nil {
			t.Fatal(err)
		}
	}
	if v, err = p.Get("v"); err != nil {
		t.Fatal(err)
	}
	root, end = volumetest.Mount(t, v, false)
	if b, err := os.ReadFile(root + "/x"); string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	end()
	// What is older than its time goes, with its layers.
	if err := errors.Join(p.Lose("v"), p.LoseSnapshot("s")); err != nil {
		t.Fatal(err)
	}
	sweepAt := func(at time.Time) {
		t.Helper()
		old := at.UTC().Format("20060102T150405.000")
		entries, err := os.ReadDir(filepath.Join(dir, "lost"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			from, to := filepath.Join(dir, "lost", e.Name()), filepath.Join(dir, "lost", old+e.Name()[len(old):])
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.SweepLost(); err != nil {
			t.Fatal(err)
		}
	}
	// Unless the clock wasn't set: how long ago that was isn't known.
	sweepAt(time.Unix(100, 0))
	again, err := p.Lost()
	if err != nil || len(again) == 0 {
		t.Fatalf("%v, %v", again, err)
	}
	for _, l := range again {
		if time.Since(l.At) > time.Hour {
			t.Errorf("%+v", l)
		}
	}
	sweepAt(time.Now().Add(-volume.LostTime - time.Hour))
	p.Quiet()
	for _, sub := range []string{"lost", "layers", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(dir, sub)); len(left) > 0 || err != nil {
			t.Errorf("left in %s: %v, %v", sub, left, err)
		}
	}
}

// TestDamagedRecords opens pools in which one small file is empty, as after a power
// cut: what it belongs to may be broken, and all else works. Nothing that it may name
// is removed.
func TestDamagedRecords(t *testing.T) {
	for _, name := range []string{"images/*/image.json", "images/*/shared", "images/*/unsynced", "volumes/a/volume.json",
		"snapshots/s/snapshot.json", "layers/*/layer.json"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			dir := t.TempDir()
			p, err := volume.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range []string{"a", "b"} {
				if _, err := p.Clone(t.Context(), v, volumetest.Image, volumetest.Content(new(atomic.Int32))); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := p.Snapshot(t.Context(), "a", "s", nil); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			dirs, err := filepath.Glob(filepath.Join(dir, filepath.Dir(name)))
			if err != nil || len(dirs) == 0 {
				t.Fatalf("%v, %v", dirs, err)
			}
			for _, d := range dirs {
				if err := os.WriteFile(filepath.Join(d, filepath.Base(name)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p = openPool(t, dir)
			p.Refill = func(ctx context.Context, _ kiln.Fingerprint) (volume.Content, error) {
				return volumetest.Content(new(atomic.Int32))(ctx)
			}
			if _, err := p.Images(); err != nil {
				t.Errorf("list trees: %v", err)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "layers")); len(left) == 0 {
				t.Error("the layers are gone")
			}
			v, err := p.Get("b")
			if err != nil {
				t.Fatal(err)
			}
			_, end := volumetest.Mount(t, v, false)
			end()
		})
	}
}

// TestCloneRemove makes volumes of an image while its tree is removed whenever nobody
// has it: none is without a tree.
func TestCloneRemove(t *testing.T) {
	p := openPool(t, t.TempDir())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = p.RemoveImage(volumetest.Image)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for i := range 100 {
		name := fmt.Sprint(i)
		v, err := p.Clone(t.Context(), name, volumetest.Image, volumetest.Content(new(atomic.Int32)))
		if err != nil {
			t.Fatal(err)
		}
		f, err := v.Mount(t.Context(), nil)
		if err != nil {
			t.Fatalf("volume %d: %v", i, err)
		}
		if err := errors.Join(f.Close(), p.Delete(t.Context(), name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLoseTwice puts a volume away while the names of the next seconds are taken, as when
// several of one name are put away within a millisecond.
func TestLoseTwice(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	const taken = 3000
	now := time.Now().UTC()
	for i := range taken {
		at := now.Add(time.Duration(i) * time.Millisecond).Format("20060102T150405.000")
		if err := os.Mkdir(filepath.Join(dir, "lost", at+".volume.v"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Empty(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if err := p.Lose("v"); err != nil {
		t.Fatal(err)
	}
	if list, err := p.Lost(); len(list) != taken+1 || err != nil {
		t.Errorf("%d, %v", len(list), err)
	}
}

// longAgo begins the name of what was put away longer ago than it stays.
func longAgo() string { return time.Now().UTC().Add(-2*volume.LostTime).Format("20060102") + "T" }
