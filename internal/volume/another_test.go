package volume

import (
	"errors"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestSnapshotBecomesAnother has a snapshot be another one of the name when something on it is
// ready: its layers may be gone, so it isn't given its place.
func TestSnapshotBecomesAnother(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b"} {
		_, err := p.Empty(t.Context(), name)
		must(err)
	}
	_, err = p.Snapshot(t.Context(), "a", "s", nil)
	must(err)
	placed := 0
	place := func(string) error { placed++; return nil }
	must(p.onSnapshot("s", func(string, *Snapshot) error { return nil }, place))
	err = p.onSnapshot("s", func(string, *Snapshot) error {
		must(p.DeleteSnapshots(t.Context(), "s"))
		_, err := p.Snapshot(t.Context(), "b", "s", nil)
		return err
	}, place)
	if !errors.Is(err, kiln.Conflict) || placed != 1 {
		t.Errorf("%v, placed %d times", err, placed)
	}
}
