package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestBadNames makes something under names that lead elsewhere: nothing is made.
func TestBadNames(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, filepath.Join(dir, "pool"))
	if _, err := p.Empty(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Snapshot(t.Context(), "v", "s", nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../x", "../../x", "a/b", "/x"} {
		for what, f := range map[string]func() error{
			"empty":          func() error { _, err := p.Empty(t.Context(), name); return err },
			"snapshot":       func() error { _, err := p.Snapshot(t.Context(), "v", name, nil); return err },
			"copy":           func() error { _, err := p.Copy(t.Context(), "v", name, nil); return err },
			"clone snapshot": func() error { _, err := p.CloneSnapshot(t.Context(), "s", name); return err },
			"copy snapshot":  func() error { return p.CopySnapshot(t.Context(), "s", name) },
			"delete":         func() error { return p.DeleteSnapshots(t.Context(), name) },
			"lose":           func() error { return p.LoseSnapshot(name) },
		} {
			if err := f(); !errors.Is(err, kiln.Invalid) {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	for _, sub := range []string{".", "pool/x", "pool/volumes", "pool/snapshots"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if sub == "pool/x" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || len(entries) != 1 {
			t.Errorf("in %s: %v, %v", sub, entries, err)
		}
	}
}
