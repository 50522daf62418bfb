package volume_test

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestSweptAtStart opens a pool from which a volume was taken away: what it stood on is put
// away, not removed, and all of it is there again when the volume is. What a verb leaves
// later goes at once.
func TestSweptAtStart(t *testing.T) {
	dir, aside := t.TempDir(), t.TempDir()+"/a"
	reopen := func(p *volume.Pool) *volume.Pool {
		t.Helper()
		if p != nil {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		p, err := volume.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	none := func(kiln.Fingerprint) bool { return false }
	p := reopen(nil)
	v, err := p.Clone(t.Context(), "a", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	root, end := volumetest.Mount(t, v, false)
	if err := os.WriteFile(root+"/file", []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	end()
	_, err = p.Snapshot(t.Context(), "a", "s", nil)
	if err := errors.Join(err, p.Settle(volumetest.Image), p.DeleteSnapshots(t.Context(), "s"),
		os.Rename(dir+"/volumes/a", aside)); err != nil {
		t.Fatal(err)
	}
	p = reopen(p)
	if err := p.Sweep(none); err != nil {
		t.Fatal(err)
	}
	lost, err := p.Lost()
	if err != nil || len(lost) != 2 || !lost[0].Layer || !lost[1].Tree || lost[1].Name != volumetest.Image.String() {
		t.Fatalf("%+v, %v", lost, err)
	}
	if err := p.Withheld(); err != nil { // what names nothing isn't damaged
		t.Error(err)
	}
	if err := errors.Join(os.Rename(aside, dir+"/volumes/a"), p.Find(lost[1])); err != nil {
		t.Fatal(err)
	}
	p = reopen(p)
	if v, err = p.Get("a"); err != nil {
		t.Fatal(err)
	}
	root, end = volumetest.Mount(t, v, true)
	if b, err := os.ReadFile(root + "/file"); string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	end()
	if err := os.Rename(dir+"/volumes/a/volume.json", aside); err != nil {
		t.Fatal(err)
	}
	p = reopen(p)
	if err := p.Withheld(); !errors.Is(err, kiln.Integrity) {
		t.Errorf("with a record lost: %v", err)
	}
	if err := p.Sweep(none); err != nil { // it is withheld, and no failure
		t.Error(err)
	}
	if err := os.Rename(aside, dir+"/volumes/a/volume.json"); err != nil {
		t.Fatal(err)
	}
	p = reopen(p)
	defer p.Close()
	if err := p.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	layers, err := os.ReadDir(dir + "/layers")
	lost, lerr := p.Lost()
	if err := errors.Join(err, lerr, p.Withheld()); err != nil || len(layers)+len(lost) != 0 {
		t.Errorf("after a deletion: %v, %+v, %v", layers, lost, err)
	}
}
