package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestRecoverAfterStart has a daemon run by an older copy of the database, whose rows it
// records: what isn't in them comes back all the same, what is in them stays, and what they
// say otherwise is told.
func TestRecoverAfterStart(t *testing.T) {
	dir, _ := populated(t)
	ctx, old := t.Context(), filepath.Join(t.TempDir(), "old.db")
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"}
	d := open(t, dir)
	if err := d.db.Backup(ctx, old); err != nil {
		t.Fatal(err)
	}
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("late")}, formattest.Tiny(t, "late")), nil)
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "late", Source: Source{Type: "none"}})
	wait(t, o, err)
	if err := errors.Join(d.CreateProject(ctx, db.Project{Name: "late"}), d.CreateProfile(ctx, db.Profile{Name: "late"}),
		d.db.CreateNetwork(ctx, db.Network{Name: "late", Config: map[string]string{"ipv4.address": "10.98.3.1/24"}}),
		d.instances.CreateSnapshot(ctx, "a", instance.NewSnapshot{Name: "late"}),
		d.instances.CreateSnapshot(ctx, "a", instance.NewSnapshot{Name: "unwanted"}),
		d.db.EditInstance(ctx, "a", func(r *db.Instance) error {
			r.Config["user.late"], r.Config["volatile.x"], r.Description = "yes", "y", "since"
			r.Devices["late"] = map[string]string{"type": "none"}
			return nil
		}),
		d.db.EditInstance(ctx, "c", func(r *db.Instance) error { r.Config["volatile.x"] = "y"; return nil })); err != nil {
		t.Fatal(err)
	}
	a, err := d.Instance(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), restored(t, dir, old)); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	eventually(t, func() bool { // it writes what it knows
		r, err := instance.ReadRecord(filepath.Join(dir, "volumes"), a.Options[instance.UUIDKey])
		return err == nil && r.Instance.Config["user.late"] == ""
	})
	lost, err := ListLost(ctx, dir)
	if err != nil || !slices.ContainsFunc(lost, func(l Lost) bool { return l.About == "snapshot a/late" }) {
		t.Errorf("lost: %+v, %v", lost, err)
	}
	for _, l := range lost {
		if l.About == "snapshot a/unwanted" { // it is gone for good
			if _, err := DropLost(ctx, dir, l.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(ctx, cfg)
	if err != nil || !slices.Equal(r.Projects, []string{"late"}) || !slices.Equal(r.Networks, []string{"late"}) ||
		!slices.Contains(r.Profiles, "late") || !slices.Equal(r.Instances, []string{"late"}) ||
		!slices.Equal(r.Snapshots, []string{"a/late"}) || !slices.Equal(r.Aliases, []string{"late"}) || len(r.Left) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if len(r.Remarks) != 1 || !strings.Contains(r.Remarks[0], `"a" had another description, user.late, device late before`) {
		t.Errorf("%q", r.Remarks)
	}
	if r, err := Recover(ctx, cfg); err != nil || len(r.Instances)+len(r.Snapshots)+len(r.Images)+len(r.Profiles)+
		len(r.Projects)+len(r.Networks)+len(r.Left) > 0 {
		t.Errorf("once more: %+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	i, err := d.Instance(ctx, "a")
	if err != nil || i.Options["user.late"] != "" || i.Description != "of a" {
		t.Errorf("%+v, %v", i.Config, err)
	}
}

// TestKeptRecords keeps records twice, also of who was interrupted, and the same ones once, and removes old ones.
func TestKeptRecords(t *testing.T) {
	dir := t.TempDir()
	if err := setRecordsAside(dir); err != nil || len(keptRecords(dir)) > 0 {
		t.Fatalf("of none: %q, %v", keptRecords(dir), err)
	}
	in := filepath.Join(dir, imagesDir)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, asideDir, ".new-records/x"), 0o700), os.Mkdir(in, 0o700),
		os.WriteFile(filepath.Join(in, "1.json"), []byte("0"), 0o600), setRecordsAside(dir), setRecordsAside(dir),
		os.MkdirAll(filepath.Join(dir, asideDir, "010"), 0o700), // not ours
		os.Rename(filepath.Join(dir, asideDir, "1"), filepath.Join(dir, asideDir, "9")),
		disk.WriteBytes(filepath.Join(in, "1.json"), 0o600, []byte("1")), setRecordsAside(dir)); err != nil {
		t.Fatal(err)
	}
	kept := keptRecords(dir)
	if len(kept) != 2 || filepath.Base(kept[0]) != "10" || filepath.Base(kept[1]) != "9" {
		t.Fatalf("%q", kept)
	}
	if b, err := os.ReadFile(filepath.Join(kept[0], imagesDir, "1.json")); err != nil || string(b) != "1" {
		t.Errorf("%q, %v", b, err)
	}
	long := time.Now().Add(-volume.LostTime - time.Hour)
	if err := errors.Join(os.Chtimes(kept[1], long, long), sweepRecords(dir)); err != nil {
		t.Fatal(err)
	}
	if left := keptRecords(dir); !slices.Equal(left, kept[:1]) {
		t.Errorf("%q are left", left)
	}
}
