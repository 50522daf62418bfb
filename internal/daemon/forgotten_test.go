package daemon

import (
	"errors"
	"io/fs"
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

// TestForgotten has daemons find that their database is older than its files: what it doesn't
// know is named, until Recover has brought it back from records that nobody overwrote.
func TestForgotten(t *testing.T) {
	dir, _ := populated(t)
	ctx, old := t.Context(), filepath.Join(t.TempDir(), "old.db")
	d := open(t, dir)
	// turnedBack gives the next daemon the database as it was.
	turnedBack := func() {
		t.Helper()
		path := filepath.Join(dir, databaseFile)
		err := errors.Join(d.Close(), os.Remove(path+"-wal"), os.WriteFile(path, []byte(read(t, old)), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		d = open(t, dir)
	}
	told := func(want ...string) {
		t.Helper()
		list, err := d.Warnings(ctx, "")
		list = slices.DeleteFunc(list, func(w Warning) bool {
			return w.Type != filesForgotten || w.Status == db.WarningResolved
		})
		if err != nil || len(list) != min(1, len(want)) {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, w := range want {
			if !strings.Contains(list[0].Message, w) || list[0].Severity != "high" {
				t.Errorf("%q doesn't say %q", list[0].Message, w)
			}
		}
	}
	recovered := func() Recovery {
		t.Helper()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := Recover(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
		if err != nil || len(r.Left) > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		d = open(t, dir)
		told()
		return r
	}
	if err := d.db.Backup(ctx, old); err != nil {
		t.Fatal(err)
	}
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("late")}, formattest.Tiny(t, "late")), nil)
	img, err := d.Images.Find(ctx, "late")
	if err != nil {
		t.Fatal(err)
	}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "late", Source: Source{Type: "none"}})
	wait(t, o, err)
	if err := errors.Join(d.CreateProject(ctx, db.Project{Name: "late"}), d.CreateProfile(ctx, db.Profile{Name: "late"}),
		d.db.CreateNetwork(ctx, db.Network{Name: "late", Config: map[string]string{"ipv4.address": "10.98.3.1/24"}}),
		d.instances.CreateSnapshot(ctx, "a", instance.NewSnapshot{Name: "late"})); err != nil {
		t.Fatal(err)
	}
	turnedBack()
	all := []string{"instance late", "snapshot a/late", "profile late,", "profile default (project late)", "project late",
		"network late", "image " + img.Fingerprint.Short()}
	told(all...)
	eventually(t, func() bool { // it records its rows
		list, err := recordedProfiles(dir)
		return err == nil && !slices.ContainsFunc(list, func(p db.Profile) bool { return p.Name == "late" })
	})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	told(all...) // still
	r := recovered()
	if !slices.Equal(r.Instances, []string{"late"}) || !slices.Equal(r.Snapshots, []string{"a/late"}) ||
		!slices.Equal(r.Projects, []string{"late"}) || !slices.Contains(r.Profiles, "late") ||
		!slices.Equal(r.Networks, []string{"late"}) || len(r.Images) != 1 {
		t.Errorf("%+v", r)
	}

	// Nothing but a profile.
	if err := errors.Join(d.db.Backup(ctx, old), d.CreateProfile(ctx, db.Profile{Name: "later"})); err != nil {
		t.Fatal(err)
	}
	turnedBack()
	told("doesn't know profile later;")
	if r := recovered(); !slices.Equal(r.Profiles, []string{"later"}) {
		t.Errorf("%+v", r)
	}

	// Files that were being made are nobody's, and no reason to keep records.
	kept := len(keptRecords(dir))
	if err := errors.Join(os.CopyFS(filepath.Join(dir, "volumes/snapshots/half"), os.DirFS(someSnapshot(t, dir))),
		d.Close()); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	told("some files of instances or snapshots, of which no record tells")
	if n := len(keptRecords(dir)); n != kept {
		t.Errorf("records are kept %d times, %d before", n, kept)
	}
	lost, err := ListLost(ctx, dir)
	if err != nil || len(lost) != 1 {
		t.Fatalf("%+v, %v", lost, err)
	}
	if _, err := DropLost(ctx, dir, lost[0].Name); err != nil {
		t.Fatal(err)
	}
	d.settleForgotten()
	told("no record tells") // what the records told isn't over
	if err := os.RemoveAll(filepath.Join(dir, asideDir)); err != nil {
		t.Fatal(err)
	}
	d.settleForgotten()
	told()
}

// someSnapshot gives the directory of a snapshot.
func someSnapshot(t *testing.T, dir string) string {
	t.Helper()
	list, err := fs.Glob(os.DirFS(dir), "volumes/snapshots/*")
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	return filepath.Join(dir, list[0])
}
