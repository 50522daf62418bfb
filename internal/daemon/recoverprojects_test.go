package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestRecoverProjects has a copy of the database of before projects were restricted: what
// replaces a lost database has the newer rules, and says so; beside rows that somebody brought
// back, what differs is told. So it is with an alias that was rolled back since.
func TestRecoverProjects(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
	d := open(t, dir)
	edit := func(name string, config map[string]string) error {
		return d.UpdateProject(ctx, name, func(p db.Project) (db.Project, error) {
			for k, v := range config {
				p.Config[k] = v
			}
			return p, nil
		})
	}
	for _, name := range []string{"web", "gone"} {
		if err := d.CreateProject(ctx, db.Project{Name: name, Config: map[string]string{"limits.instances": "5"}}); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("x")}, formattest.Tiny(t, "first")), nil)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("y")}, formattest.Tiny(t, "second")), nil)
	second, err := d.Images.Find(ctx, "y")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Images.UpdateAlias(ctx, "x", func(a *kiln.Alias) error {
		a.Target = second.Fingerprint
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, backupsDir, "kiln-99990101.db")
	if err := errors.Join(os.MkdirAll(filepath.Dir(copied), 0o700), d.db.Backup(ctx, copied)); err != nil {
		t.Fatal(err)
	}
	_, was, rolledBack := d.RollBackAlias(ctx, "x", 1)
	want := map[string]string{"limits.instances": "3", "restricted": "true", "restricted.containers.nesting": "block"}
	if err := errors.Join(edit("web", want), edit("default", map[string]string{"limits.memory": "1GiB"}),
		d.DeleteProject(ctx, "gone"), rolledBack,
		d.CreateProject(ctx, db.Project{Name: "new", Description: "x", Config: map[string]string{"restricted": "true"}}),
		d.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreDatabase(ctx, dir, ""); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"}
	r, err := Recover(ctx, cfg)
	if remarks := strings.Join(r.Remarks, "\n"); err != nil || !slices.Equal(r.Projects, []string{"new"}) ||
		!strings.Contains(remarks, `project "web" has another limits.instances, restricted, restricted.containers.nesting`) ||
		!strings.Contains(remarks, "by the records of images: x") {
		t.Errorf("of a copy that somebody brought back: %+v, %v", r, err)
	}
	if err := os.Remove(filepath.Join(dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	r, err = Recover(ctx, cfg)
	if remarks := strings.Join(r.Remarks, "\n"); err != nil || !slices.Equal(r.Projects, []string{"default: limits.memory",
		"new", "web: limits.instances, restricted, restricted.containers.nesting"}) ||
		len(r.Remarks) != 1 || !strings.Contains(remarks, `"gone" is in the copy`) {
		t.Errorf("of a lost database: %+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	if a, err := d.Images.Alias(ctx, "x"); err != nil || a.Target != was.Fingerprint {
		t.Errorf("the alias points to %s, %v; want %s", a.Target.Short(), err, was.Fingerprint.Short())
	}
	for name, config := range map[string]map[string]string{"web": want, "new": {"restricted": "true"},
		"default": {"limits.memory": "1GiB"}} {
		p, err := d.Project(ctx, name)
		for k, v := range config {
			if err != nil || p.Config[k] != v {
				t.Errorf("%s has %s=%q, %v", name, k, p.Config[k], err)
			}
		}
	}
}
