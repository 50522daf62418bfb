package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/files"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestNamesChangeHands begins everything that is done with an instance, and gives its name
// to another one before it is done: that one stays as it is, and so does the first.
func TestNamesChangeHands(t *testing.T) {
	d := fresh(t)
	ctx := t.Context()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	for _, name := range []string{"x", "z"} {
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "image", Alias: "bb"}})
		wait(t, o, err)
		snapshot(t, d, name, "s")
		snapshot(t, d, name, name)
	}
	if err := d.CreateProject(ctx, db.Project{Name: "p"}); err != nil {
		t.Fatal(err)
	}
	before := map[string]instance.Instance{}
	for _, name := range []string{"x", "z"} {
		i, err := d.Instance(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = i
	}
	backups, err := d.InstanceBackups(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	image := Source{Type: "image", Alias: "bb"}
	verbs := map[string]func() (*op.Operation, error){
		"rebuild":          func() (*op.Operation, error) { return d.RebuildInstance(ctx, "x", image, false) },
		"rebuild by force": func() (*op.Operation, error) { return d.RebuildInstance(ctx, "x", image, true) },
		"delete":           func() (*op.Operation, error) { return d.DeleteInstance(ctx, "x") },
		"rename":           func() (*op.Operation, error) { return d.RenameInstance(ctx, "x", "y") },
		"move":             func() (*op.Operation, error) { return d.MoveInstance(ctx, "x", "p", "", nil) },
		"start":            func() (*op.Operation, error) { return d.SetInstanceState(ctx, "x", "start", 0, false) },
		"restart":          func() (*op.Operation, error) { return d.SetInstanceState(ctx, "x", "restart", 0, false) },
		"restore":          func() (*op.Operation, error) { return d.RestoreSnapshot(ctx, "x", "s") },
		"delete snapshot":  func() (*op.Operation, error) { return d.DeleteSnapshot(ctx, "x", "s") },
		"rename snapshot":  func() (*op.Operation, error) { return d.RenameSnapshot(ctx, "x", "s", "t") },
		"snapshot":         func() (*op.Operation, error) { return d.CreateSnapshot(ctx, "x", instance.NewSnapshot{}) },
		"share":            func() (*op.Operation, error) { return d.ShareInstance(ctx, "x", false) },
		"backup":           func() (*op.Operation, error) { return backups.Create(ctx, NewBackup{}) },
		"publish":          func() (*op.Operation, error) { return d.PublishImage(ctx, PublishSpec{From: "x"}) },
		"copy": func() (*op.Operation, error) {
			return d.CreateInstance(ctx, CreateSpec{Name: "copied", Source: Source{Type: "copy", Instance: "x"}})
		},
	}
	started := map[string]*op.Operation{}
	resume, err := d.instances.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "x"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	for verb, begin := range verbs {
		if started[verb], err = begin(); err != nil {
			t.Fatal(verb, err)
		}
	}
	if err := errors.Join(d.db.RenameInstance(ctx, "x", "old"), d.db.RenameInstance(ctx, "z", "x"), resume()); err != nil {
		t.Fatal(err)
	}
	for verb, o := range started {
		// It isn't found by who comes between the two.
		if err := o.Wait(ctx).Err; !errors.Is(err, kiln.Conflict) && !errors.Is(err, kiln.NotFound) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	for now, was := range map[string]string{"old": "x", "x": "z"} {
		i, err := d.Instance(ctx, now)
		if err != nil || i.Options[instance.UUIDKey] != before[was].Options[instance.UUIDKey] {
			t.Errorf("%s, now %s: %v, %v", was, now, i.Options, err)
		}
		list, err := d.Snapshots(ctx, now)
		if err != nil || len(list) != 2 || list[0].Name != "s" || list[1].Name != was {
			t.Errorf("%s, now %s: %v, %v", was, now, list, err)
		}
	}
	if list, err := d.Instances(project.InAll(ctx)); err != nil || len(list) != 2 {
		t.Error(len(list), err)
	}
}

// TestSnapshotNamesChangeHands deletes a snapshot whose name another one of the same
// instance has by then.
func TestSnapshotNamesChangeHands(t *testing.T) {
	d := fresh(t)
	ctx := t.Context()
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "x", Source: Source{Type: "none"}})
	wait(t, o, err)
	snapshot(t, d, "x", "a")
	snapshot(t, d, "x", "b")
	resume, err := d.instances.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "x"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	var started []*op.Operation
	for _, begin := range []func() (*op.Operation, error){
		func() (*op.Operation, error) { return d.DeleteSnapshot(ctx, "x", "a") },
		func() (*op.Operation, error) { return d.RestoreSnapshot(ctx, "x", "a") },
		func() (*op.Operation, error) { return d.RenameSnapshot(ctx, "x", "a", "d") },
		func() (*op.Operation, error) { return d.PublishImage(ctx, PublishSpec{From: "x/a"}) },
	} {
		o, err := begin()
		if err != nil {
			t.Fatal(err)
		}
		started = append(started, o)
	}
	if err := errors.Join(d.db.RenameSnapshot(ctx, "x", "a", "c"), d.db.RenameSnapshot(ctx, "x", "b", "a"),
		resume()); err != nil {
		t.Fatal(err)
	}
	for _, o := range started { // between the two renames, no snapshot has the name
		if s := o.Wait(ctx); !errors.Is(s.Err, kiln.Conflict) && !errors.Is(s.Err, kiln.NotFound) {
			t.Errorf("%s: %v", s.Description, s.Err)
		}
	}
	if list, err := d.Snapshots(ctx, "x"); err != nil || len(list) != 2 {
		t.Error(list, err)
	}
}

// TestNewEphemeral can't start an ephemeral instance that was just made: only that one is
// deleted, not the one that has its name by then.
func TestNewEphemeral(t *testing.T) {
	d := fresh(t)
	ctx := t.Context()
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "x", Source: Source{Type: "none"}})
	wait(t, o, err)
	f := d.instances.NewFiles()
	n := instance.New{Name: "x", Config: instance.Config{Ephemeral: true}}
	if err := d.startNew(instance.MeaningNew(ctx, "x", f), n, true); !errors.Is(err, kiln.Conflict) {
		t.Error(err)
	}
	if _, err := d.Instance(ctx, "x"); err != nil {
		t.Error(err)
	}
}

// TestDeleteUnchanged deletes an instance that was copied elsewhere only if it is what it was
// then.
func TestDeleteUnchanged(t *testing.T) {
	d := fresh(t)
	ctx := t.Context()
	create := func(name string) {
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
		snapshot(t, d, name, "s")
	}
	row := func(f func(*db.Instance)) error {
		return d.db.EditInstance(ctx, "x", func(r *db.Instance) error { f(r); return nil })
	}
	inFiles := func(f func(*files.Tree) error) error {
		tree, err := d.InstanceFiles(ctx, "x")
		if err != nil {
			return err
		}
		return errors.Join(f(tree), tree.Close())
	}
	for what, c := range map[string]struct {
		change func() error
		stays  bool
	}{
		"nothing": {func() error { return nil }, false},
		"a look at its files": {func() error {
			return inFiles(func(f *files.Tree) error { _, err := f.Lstat("/"); return err })
		}, false},
		"a file": {func() error {
			return inFiles(func(f *files.Tree) error {
				return f.Write("/f", strings.NewReader("precious"), files.Attributes{}, files.Attributes{}, false)
			})
		}, true},
		"a snapshot more": {func() error { snapshot(t, d, "x", "more"); return nil }, true},
		"another of that name": {func() error {
			create("z")
			return errors.Join(d.db.RenameInstance(ctx, "x", "old"), d.db.RenameInstance(ctx, "z", "x"))
		}, true},
		"its configuration": {func() error { return row(func(r *db.Instance) { r.Description = "new" }) }, true},
		"a start":           {func() error { return row(func(r *db.Instance) { r.LastUsedAt = time.Now() }) }, true},
		"a template":        {func() error { return d.SetTemplate(ctx, "x", "t", []byte("text"), func([]byte) error { return nil }) }, true},
	} {
		create("x")
		o, err := d.ShareInstance(ctx, "x", false)
		state, _ := wait(t, o, err).Metadata["state"].(string)
		if err := c.change(); err != nil {
			t.Fatal(what, err)
		}
		if state == "" {
			t.Fatal("no state")
		}
		if o, err = d.DeleteUnchanged(ctx, "x", state); err != nil {
			t.Fatal(what, err)
		}
		if err := o.Wait(ctx).Err; errors.Is(err, kiln.Conflict) != c.stays || !c.stays && err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, name := range []string{"x", "old"} {
			if _, err := d.Instance(ctx, name); err == nil {
				o, err := d.DeleteInstance(ctx, name)
				wait(t, o, err)
			}
		}
	}
}
