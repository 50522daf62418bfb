package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
	// The tree of an image that is here stays. A start removes the others: nobody has told
	// that their images went.
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("one")}, first), nil)
	create(t, d, "c2", one)
	o, err = d.DeleteInstance(ctx, "c2")
	wait(t, o, err)
	if err := d.dropTrees(ctx); err != nil {
		t.Fatal(err)
	}
	check("the image is here", true, false)
	if err := d.Images.Delete(ctx, one); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := d.dropTrees(over); err == nil {
		t.Error("nobody could tell whether the image is here")
	}
	check("it isn't known whether the image is here", true, false)
	if err := d.dropTrees(ctx); err != nil {
		t.Fatal(err)
	}
	check("the image isn't here", false, false)
}

// TestClearedImagesLeaveTrees has cached images expire that instances stand on: their trees
// are on the disk before what they are made from goes, and are made if they were lost.
func TestClearedImagesLeaveTrees(t *testing.T) {
	d := fresh(t)
	for _, seed := range []string{"here", "lost"} {
		fp := cached(t, d, seed)
		create(t, d, "on-"+seed, fp)
		dir := filepath.Join(d.cfg.Dir, "volumes", "images", fp.String())
		if seed != "here" {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		if gone, err := d.clear(t.Context(), fp, func(kiln.Image) bool { return true }); !gone || err != nil {
			t.Errorf("%s: %v, %v", seed, gone, err)
		}
		_, err := os.Stat(filepath.Join(dir, "unsynced"))
		if !d.pool.HasImage(fp) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the tree is there: %v; it may not be on the disk: %v", seed, d.pool.HasImage(fp), err == nil)
		}
	}
}
