package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestRecoverRebuilt has a copy of the database of before an instance was rebuilt, twice: it
// comes back as one, with the snapshots of before and after. One that was deleted since is told
// of with its project; one whose snapshots are left, with these.
func TestRecoverRebuilt(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("x")}, formattest.Tiny(t, "first")), nil)
	if err := d.CreateProject(ctx, db.Project{Name: "ci"}); err != nil {
		t.Fatal(err)
	}
	ci, err := d.In(ctx, "ci")
	if err != nil {
		t.Fatal(err)
	}
	image := Source{Type: "image", Alias: "x"}
	o, err := d.CreateInstance(ci, CreateSpec{Name: "c1", Source: Source{Type: "none"}})
	wait(t, o, err)
	for _, name := range []string{"c1", "lost"} {
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: image})
		wait(t, o, err)
		if err := d.instances.CreateSnapshot(ctx, name, instance.NewSnapshot{Name: "s0"}); err != nil {
			t.Fatal(err)
		}
	}
	rebuild := func() {
		t.Helper()
		o, err := d.RebuildInstance(ctx, "c1", image, false)
		wait(t, o, err)
	}
	rebuild()
	at := filepath.Join(dir, backupsDir, "kiln-20260102.db")
	if err := errors.Join(os.RemoveAll(filepath.Dir(at)), os.Mkdir(filepath.Dir(at), 0o700),
		d.db.Backup(ctx, at)); err != nil {
		t.Fatal(err)
	}
	rebuild()
	if err := d.instances.CreateSnapshot(ctx, "c1", instance.NewSnapshot{Name: "s1"}); err != nil {
		t.Fatal(err)
	}
	o, err = d.DeleteInstance(ci, "c1")
	wait(t, o, err)
	lost, err := d.Instance(ctx, "lost")
	if err := errors.Join(err, d.Close(), os.RemoveAll(filepath.Join(dir, "volumes/volumes",
		lost.Options[instance.UUIDKey])), os.Remove(filepath.Join(dir, databaseFile))); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	said := strings.Join(r.Remarks, "\n")
	if err != nil || !slices.Equal(r.Instances, []string{"c1"}) || !strings.Contains(said, "kiln delete c1 --project ci") ||
		strings.Contains(said, "kiln delete lost") || !strings.Contains(said, "1 of its snapshots") {
		t.Errorf("%+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	all, err := d.Instances(ctx)
	list, serr := d.Snapshots(ctx, "c1")
	if err := errors.Join(err, serr); err != nil || len(all) != 2 || len(list) != 2 {
		t.Errorf("%+v, %+v, %v", all, list, err)
	}
}
