package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestSnapshotGoesMeanwhile makes each thing that stands on a snapshot while that is
// deleted: nobody waits for what is being made, of which nothing is left. What has its
// place has its layers, whoever sweeps at that moment.
func TestSnapshotGoesMeanwhile(t *testing.T) {
	for what, work := range map[string]func(p *volume.Pool) error{
		"volumes/clone": func(p *volume.Pool) error {
			_, err := p.CloneSnapshot(t.Context(), "s", "clone")
			return err
		},
		"snapshots/copy":   func(p *volume.Pool) error { return p.CopySnapshot(t.Context(), "s", "copy") },
		"volumes/restored": func(p *volume.Pool) error { return p.Restore(t.Context(), "restored", "s") },
	} {
		for _, deleted := range []bool{true, false} {
			dir := t.TempDir()
			p := openPool(t, dir)
			v, err := p.Empty(t.Context(), "v")
			if err != nil {
				t.Fatal(err)
			}
			root, end := volumetest.Mount(t, v, false)
			must(t, os.WriteFile(root+"/file", []byte("content"), 0o600))
			end()
			_, err = p.Snapshot(t.Context(), "v", "s", nil)
			_, rerr := p.Empty(t.Context(), "restored")
			must(t, errors.Join(err, rerr, p.Delete(t.Context(), "v")))
			p.Quiet()

			swept := meanwhile(deleted, p, dir, what)
			err = work(p)
			swept(t)
			p.Quiet()
			if deleted != errors.Is(err, kiln.NotFound) || !deleted && err != nil {
				t.Errorf("%s, deleted %v: %v", what, deleted, err)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 {
				t.Errorf("%s, deleted %v: %v are left", what, deleted, left)
			}
			name := filepath.Base(what)
			if strings.HasPrefix(what, "snapshots") && !deleted {
				if _, err := p.CloneSnapshot(t.Context(), "copy", "ofcopy"); err != nil {
					t.Fatal(err)
				}
				name = "ofcopy"
			}
			v, err = p.Get(name)
			if deleted != (err != nil) && name != "restored" {
				t.Errorf("%s, deleted %v: %v", what, deleted, err)
			}
			if err != nil {
				continue
			}
			root, end = volumetest.Mount(t, v, true)
			if b, err := os.ReadFile(root + "/file"); (string(b) == "content") == deleted {
				t.Errorf("%s, deleted %v: %q, %v", what, deleted, b, err)
			}
			end()
		}
	}
}

// meanwhile deletes the snapshot s when the record of what stands on it is written, or sweeps
// when that gets its place. What it gives waits for that.
func meanwhile(deleted bool, p *volume.Pool, dir, place string) func(*testing.T) {
	done := make(chan error, 1)
	var early, never bool
	var once sync.Once
	stop := disk.Record(func(s disk.Step) {
		switch {
		case deleted && s.Kind == disk.SyncedFile && strings.HasPrefix(s.Path, filepath.Join(dir, "tmp")):
			once.Do(func() {
				go func() { done <- p.DeleteSnapshots(context.Background(), "s") }()
				select {
				case err := <-done:
					done <- err
				case <-time.After(time.Minute):
					never = true
				}
			})
		case !deleted && s.Kind == disk.Renamed && (s.Path == filepath.Join(dir, place) ||
			strings.HasSuffix(place, "restored")):
			once.Do(func() {
				go func() { done <- p.SweepLayers() }()
				select {
				case err := <-done:
					done <- err
					early = true
				case <-time.After(100 * time.Millisecond):
				}
			})
		}
	})
	return func(t *testing.T) {
		t.Helper()
		stop()
		if err := <-done; err != nil || early || never {
			t.Errorf("%s: %v; a sweep overtook it: %v; a deletion waited for it: %v", place, err, early, never)
		}
	}
}
