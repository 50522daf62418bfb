package volume_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// steps records what reaches the disk while f runs.
func steps(t *testing.T, f func() error) []disk.Step {
	t.Helper()
	var mu sync.Mutex
	var list []disk.Step
	stop := disk.Record(func(s disk.Step) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, s)
	})
	defer stop()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return list
}

// first finds the first step from some place on; it must be there.
func first(t *testing.T, list []disk.Step, from int, kind, part string) int {
	t.Helper()
	i := slices.IndexFunc(list[from:], func(s disk.Step) bool {
		return s.Kind == kind &&
			strings.Contains(s.Path+"/", part)
	})
	if i < 0 {
		t.Fatalf("no %q of %q after step %d: %v", kind, part, from, list)
	}
	return from + i
}

// TestOrder makes sure of each thing that a pool promises to keep that its content is
// on the disk before it has its name, and the name before the call returns.
func TestOrder(t *testing.T) {
	dir, there := t.TempDir(), t.TempDir()
	p, other := openPool(t, dir), openPool(t, there)
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	list := steps(t, func() error { return p.Settle(volumetest.Image) })
	at := first(t, list, 0, disk.Renamed, "/digest/") // never half of it: it would call the tree damaged
	at = first(t, list, at, disk.SyncedSystem, "/images/")
	first(t, list, at, disk.SyncedDir, "/images/") // the mark is gone after that

	root, end := volumetest.Mount(t, v, false)
	if err := disk.WriteBytes(root+"/root/x", 0o600, []byte("x")); err != nil {
		t.Fatal(err)
	}
	end()
	var s, both *volume.Snapshot
	list = steps(t, func() (err error) { s, err = p.Snapshot(t.Context(), "v", "s", nil); return err })
	at = first(t, list, 0, disk.SyncedSystem, "/volumes/v/") // what becomes the layer
	at = first(t, list, at, disk.SyncedFile, "snapshot.json")
	at = first(t, list, at, disk.Renamed, "/layers/") // the volume that changes places with it
	at = first(t, list, at, disk.SyncedDir, "/layers/")
	at = first(t, list, at, disk.Renamed, "/layers/")
	first(t, list, at, disk.SyncedDir, "/volumes/")
	at = first(t, list, at, disk.Renamed, "/snapshots/s/")
	first(t, list, at, disk.SyncedDir, "/snapshots/")

	root, end = volumetest.Mount(t, v, false) // of one in use, a copy becomes the layer
	if err := disk.WriteBytes(root+"/root/y", 0o600, []byte("y")); err != nil {
		t.Fatal(err)
	}
	list = steps(t, func() error {
		both, err = p.Snapshot(t.Context(), "v", "t", func(context.Context) (func() error, error) {
			return func() error { return nil }, nil
		})
		return err
	})
	end()
	at = first(t, list, 0, disk.SyncedSystem, dir+"/tmp/")
	at = first(t, list, at, disk.Renamed, "/layers/")
	at = first(t, list, at, disk.Renamed, "/snapshots/t/")
	first(t, list, at, disk.SyncedDir, "/snapshots/")

	list = steps(t, func() error { _, err := p.WithMerged(t.Context(), both, 0, both.Depth()); return err })
	at = first(t, list, 0, disk.SyncedSystem, dir+"/tmp/")
	first(t, list, at, disk.Renamed, "/layers/")

	if err := other.Fill(t.Context(), volumetest.Image, volumetest.Content(new(atomic.Int32))); err != nil {
		t.Fatal(err)
	}
	r, err := carry(t.Context(), p, other, s.Stack())
	if err != nil {
		t.Fatal(err)
	}
	list = steps(t, func() error {
		return errors.Join(r.Commit(context.Background(), "copy", s.Stack(), map[string]kiln.Stack{}), r.Close())
	})
	at = first(t, list, 0, disk.SyncedSystem, there+"/tmp/")
	at = first(t, list, at, disk.SyncedFile, "volume.json")
	at = first(t, list, at, disk.Renamed, "/layers/")
	at = first(t, list, at, disk.SyncedDir, "/layers/")
	at = first(t, list, at, disk.Renamed, "/volumes/copy/")
	first(t, list, at, disk.SyncedDir, filepath.Base(filepath.Dir("/volumes/copy")))
}
