package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestLostRecord has the records of a volume and of a snapshot lost, or say nothing, and
// the directories that they are in missing, as when a disk isn't mounted: what has none
// is refused, and no sweep takes a layer, a tree or a note that it may need. When it is
// back, all is as it was.
func TestLostRecord(t *testing.T) {
	owned := func() (volumes, snapshots []string, err error) { return []string{"a"}, []string{"s"}, nil }
	for _, c := range []struct{ name, path, content string }{
		{"no record of a volume", "volumes/a/volume.json", ""},
		{"null as a volume", "volumes/a/volume.json", "null"},
		{"nothing in a volume", "volumes/a/volume.json", "{}"},
		{"no record of a snapshot", "snapshots/s/snapshot.json", ""},
		{"null as a snapshot", "snapshots/s/snapshot.json", "null"},
		{"nothing in a snapshot", "snapshots/s/snapshot.json", "{}"},
		{"no layers of a snapshot", "snapshots/s/snapshot.json", `{"base":"` + volumetest.Image.String() + `"}`},
		{"no directory of volumes", "volumes", ""},
		{"no directory of snapshots", "snapshots", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p, err := volume.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			v, err := p.Clone(t.Context(), "a", volumetest.Image, volumetest.Content(new(atomic.Int32)))
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Snapshot(t.Context(), "a", "s", nil)
			if err := errors.Join(err, p.SetNote("a", []byte("note"))); err != nil {
				t.Fatal(err)
			}
			root, end := volumetest.Mount(t, v, false)
			if err := os.WriteFile(root+"/file", []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			end()
			if _, err := p.Snapshot(t.Context(), "a", "other", nil); err != nil {
				t.Fatal(err)
			}
			if filepath.Base(c.path)[0] == 's' { // the layer is the snapshot's alone
				err = errors.Join(os.RemoveAll(dir+"/snapshots/s"), os.Rename(dir+"/snapshots/other", dir+"/snapshots/s"),
					p.Delete(t.Context(), "a"))
				_, cloned := p.CloneSnapshot(t.Context(), "s", "a")
				if err := errors.Join(err, cloned); err != nil {
					t.Fatal(err)
				}
				b := []byte(`{"base":"` + volumetest.Image.String() + `"}`)
				if err := os.WriteFile(dir+"/volumes/a/volume.json", b, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := p.DeleteSnapshots(t.Context(), "other"); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadDir(dir + "/layers")
			if err != nil || len(before) == 0 {
				t.Fatal(before, err)
			}
			path := filepath.Join(dir, c.path)
			if err := os.Rename(path, dir+"/aside"); err != nil {
				t.Fatal(err)
			}
			if c.content != "" {
				if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p, err = volume.OpenFor(dir, owned, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, verr := p.Get("a")
			_, serr := p.GetSnapshot("s")
			if verr == nil && serr == nil {
				t.Error("both can be used")
			}
			if err := errors.Join(p.SweepLost(), p.DeleteSnapshots(t.Context(), "nothing")); err != nil {
				t.Error(err)
			}
			if err := p.RemoveImage(volumetest.Image); !errors.Is(err, kiln.Conflict) {
				t.Errorf("remove the tree: %v", err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.RemoveAll(path), os.Rename(dir+"/aside", path)); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadDir(dir + "/layers")
			if err != nil || len(after) != len(before) {
				t.Errorf("layers were %v, are %v, %v", before, after, err)
			}
			p, err = volume.OpenFor(dir, owned, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if _, err := p.Note("a"); err != nil && c.path != "snapshots" && filepath.Base(c.path)[0] != 's' {
				t.Error(err)
			}
			if _, err := p.CloneSnapshot(t.Context(), "s", "c"); err != nil {
				t.Fatal(err)
			}
			name := "a"
			if filepath.Base(c.path)[0] == 's' {
				name = "c"
			}
			if v, err = p.Get(name); err != nil {
				t.Fatal(err)
			}
			root, end = volumetest.Mount(t, v, false)
			defer end()
			if b, err := os.ReadFile(root + "/file"); string(b) != "content" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// TestOwnerUnknown has an owner that can't say which volumes and snapshots it has: what no
// record names may be needed by one that is lost. One that is put away is not.
func TestOwnerUnknown(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Clone(t.Context(), "a", volumetest.Image, volumetest.Content(new(atomic.Int32))); err != nil {
		t.Fatal(err)
	}
	_, err = p.Snapshot(t.Context(), "a", "s", nil)
	if err := errors.Join(err, p.Close(), os.RemoveAll(dir+"/volumes/a"), os.RemoveAll(dir+"/snapshots/s")); err != nil {
		t.Fatal(err)
	}
	var volumes []string
	why := errors.New("no rows")
	p, err = volume.OpenFor(dir, func() ([]string, []string, error) { return volumes, nil, why }, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	check := func(what string, want int) {
		t.Helper()
		left, err := os.ReadDir(dir + "/layers")
		if len(left) != want || err != nil {
			t.Errorf("%s: %d layers are left, %v", what, len(left), err)
		}
		if err := p.RemoveImage(volumetest.Image); errors.Is(err, kiln.Conflict) != (want > 0) {
			t.Errorf("%s: remove the tree: %v", what, err)
		}
	}
	if err := p.SweepLayers(); err != nil {
		t.Error(err)
	}
	check("not known", 1)
	why, volumes = nil, []string{"away"}
	_, err = p.Empty(t.Context(), "away")
	if err := errors.Join(err, p.Lose("away"), p.SweepLost()); err != nil {
		t.Error(err)
	}
	check("put away", 0)
}

// TestDeletedMeanwhile has volumes deleted while the pool looks for them: their rows go
// first, so what was named a moment ago and isn't any more is no loss.
func TestDeletedMeanwhile(t *testing.T) {
	var owned [][]string // by each next question; the last answer stays
	p, err := volume.OpenFor(filepath.Join(t.TempDir(), "pool"), func() ([]string, []string, error) {
		if len(owned) == 0 {
			return nil, nil, nil
		}
		answer := owned[0]
		owned = owned[min(1, len(owned)-1):]
		return answer, nil, nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, c := range map[string]struct {
		owned [][]string
		lost  bool
	}{
		"deleted":           {[][]string{{"a"}, {}}, false},
		"one after another": {[][]string{{"a"}, {"b"}, {}}, false},
		"lost":              {[][]string{{"a", "b"}, {"b"}}, true},
	} {
		owned = c.owned
		if err := p.Withheld(); (err != nil) != c.lost {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSweepAfterLoss has a layer that nobody names put away, not removed, once a record
// could not be read since the pool was opened.
func TestSweepAfterLoss(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Empty(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Snapshot(t.Context(), "a", "s", nil); err != nil {
		t.Fatal(err)
	}
	record := dir + "/snapshots/s/snapshot.json"
	if err := errors.Join(p.Delete(t.Context(), "a"), os.Remove(record), p.SweepLayers(),
		os.RemoveAll(dir+"/snapshots/s"), p.SweepLayers()); err != nil {
		t.Fatal(err)
	}
	if lost, err := p.Lost(); err != nil || len(lost) != 1 || !lost[0].Layer {
		t.Errorf("put away: %v, %v", lost, err)
	}
}
