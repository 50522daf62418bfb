package daemon

import (
	"errors"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestMayStandOn has the tree of an image here, for an instance of a project that has the image:
// an instance that arrives in another project, which says that it is on that image, gets it
// there only when an instance of that project is on it already.
func TestMayStandOn(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c", Source: Source{Type: "image", Alias: "bb"}})
	wait(t, o, err)
	if err := d.CreateProject(ctx, db.Project{Name: "own"}); err != nil {
		t.Fatal(err)
	}
	own, err := d.In(ctx, "own")
	if err != nil {
		t.Fatal(err)
	}
	i, err := d.Instance(ctx, "c")
	fp, ferr := kiln.ParseFingerprint(i.Options["volatile.base_image"])
	if err := errors.Join(err, ferr); err != nil || !d.pool.HasImage(fp) {
		t.Fatalf("%v; its tree is here: %v", err, d.pool.HasImage(fp))
	}
	o, err = d.CreateInstance(own, CreateSpec{Name: "none", Source: Source{Type: "none"}})
	wait(t, o, err)
	if err := d.db.EditInstance(own, "none", func(i *db.Instance) error { i.Base = fp; return nil }); err != nil {
		t.Fatal(err) // as whoever sent it may have said
	}
	if may, err := d.mayStandOn(own, fp); may || err != nil {
		t.Errorf("on what only another project has: %v, %v", may, err)
	}
	o, err = d.CreateInstance(own, CreateSpec{Name: "k", Source: Source{Type: "copy", Instance: "c", Project: "default"}})
	wait(t, o, err)
	if may, err := d.mayStandOn(own, fp); !may || err != nil {
		t.Errorf("beside an instance of its own project: %v, %v", may, err)
	}
}
