package daemon

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestBackupIsWholeOrNothing makes an instance of a backup that is cut or changed at many
// places: it fails and leaves nothing, or the change was of no byte that matters.
func TestBackupIsWholeOrNothing(t *testing.T) {
	d := fresh(t)
	create := func(name string) {
		t.Helper()
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
	}
	create("c1")
	o, err := d.CreateBackup(t.Context(), "c1", NewBackup{Name: "b", Compression: "gzip"})
	wait(t, o, err)
	f, err := d.OpenBackup(t.Context(), "c1", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	restore := func(b []byte) error {
		return d.RestoreBackup(t.Context(), CreateSpec{Name: "c2"}, bytes.NewReader(b)).Wait(t.Context()).Err
	}
	before := countFiles(t, d)
	for n := 0; n < len(whole); n += max(1, len(whole)/40) {
		changed := slices.Clone(whole)
		changed[n] ^= 0x55
		for _, b := range [][]byte{whole[:n], changed} {
			err := restore(b)
			if err == nil { // as in the name that gzip has
				o, err := d.DeleteInstance(t.Context(), "c2")
				wait(t, o, err)
				if len(b) < len(whole) {
					t.Errorf("%d of %d bytes make an instance", len(b), len(whole))
				}
			} else if k := kiln.KindOf(err); k == kiln.Internal {
				t.Errorf("byte %d: an error without a kind: %v", n, err)
			}
			if _, err := d.Instance(t.Context(), "c2"); !errors.Is(err, kiln.NotFound) {
				t.Fatalf("byte %d: there is an instance: %v", n, err)
			}
		}
	}
	if after := countFiles(t, d); after != before {
		t.Errorf("%d directories are left, there were %d", after, before)
	}
	if err := restore(whole); err != nil {
		t.Fatal(err)
	}
	if err := restore(whole); !errors.Is(err, kiln.Conflict) {
		t.Errorf("a second one of the name: %v", err)
	}

	// The backups go with the instance.
	o, err = d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
	left, err := os.ReadDir(filepath.Join(d.cfg.Dir, exportsDir))
	if len(left) > 0 || err != nil {
		t.Errorf("%v %v are left", left, err)
	}
}
