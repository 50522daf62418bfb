package daemon

import (
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestTreesGoWithTheLast has an instance move on to another image while its snapshot
// stands on the first, which is deleted: the tree stays for as long as that.
func TestTreesGoWithTheLast(t *testing.T) {
	d := fresh(t)
	ctx := t.Context()
	first := formattest.Unified(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("one")}, first), nil)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("two")}, formattest.Compress(t, first, "gzip")), nil)
	one, two := image(t, d, "one").Fingerprint, image(t, d, "two").Fingerprint
	check := func(when string, wantOne, wantTwo bool) {
		t.Helper()
		if d.pool.HasImage(one) != wantOne || d.pool.HasImage(two) != wantTwo {
			t.Errorf("%s: trees %v, %v", when, d.pool.HasImage(one), d.pool.HasImage(two))
		}
	}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "one"}})
	wait(t, o, err)
	snapshot(t, d, "c1", "s0")
	rebuild := func(s Source) {
		t.Helper()
		o, err := d.RebuildInstance(ctx, "c1", s, false)
		wait(t, o, err)
	}
	rebuild(Source{Type: "image", Alias: "two"})
	for _, fp := range []kiln.Fingerprint{one, two} {
		wait(t, d.DeleteImage(ctx, fp), nil)
	}
	check("in use", true, true)
	restore(t, d, "c1", "s0")
	check("restored", true, false)
	rebuild(Source{Type: "none"})
	check("the snapshot's", true, false)
	o, err = d.DeleteInstance(ctx, "c1")
	wait(t, o, err)
	check("deleted", false, false)
}
