package db

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestSettleInstance writes what was decided before: a project that has been given tighter
// limits since isn't asked again, and what is reserved is there for it.
func TestSettleInstance(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	ctx := project.In(t.Context(), project.New("a", nil))
	if err := errors.Join(d.CreateProject(ctx, Project{Name: "a", Config: map[string]string{"limits.memory": "1GiB"}}),
		d.CreateInstance(ctx, Instance{Name: "c", Config: map[string]string{"limits.memory": "1GiB"}})); err != nil {
		t.Fatal(err)
	}
	more := func(i *Instance) error { i.Config["limits.memory"] = "2GiB"; return nil }
	if err := d.EditInstance(ctx, "c", more); !errors.Is(err, kiln.Invalid) {
		t.Error(err)
	}
	full := true
	if err := d.SettleInstance(ctx, "c", func(i *Instance) error {
		if full {
			full = false
			return kiln.Errorf(kiln.NoSpace, "the disk is full")
		}
		return more(i)
	}); err != nil {
		t.Error(err)
	}
	if i, err := d.Instance(ctx, "c"); err != nil || i.Config["limits.memory"] != "2GiB" {
		t.Errorf("%v, %v", i.Config, err)
	}
}

// TestDeleteGivesRoom has a database that can't become larger: who deletes an instance gives
// away what is reserved.
func TestDeleteGivesRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	if err := d.CreateInstance(t.Context(), Instance{Name: "c"}); err != nil {
		t.Fatal(err)
	}
	execute(t, d, `CREATE TABLE filling (b)`)
	execute(t, d, `CREATE TRIGGER fill BEFORE DELETE ON instances
		BEGIN INSERT INTO filling VALUES (zeroblob(10000000)); END`)
	execute(t, d, `PRAGMA max_page_count = 1`) // no fewer than there are
	held := fileSize(path + "-reserve")
	if err := d.DeleteInstance(t.Context(), "c"); !errors.Is(err, kiln.NoSpace) {
		t.Fatal(err)
	}
	if left := fileSize(path + "-reserve"); held == 0 || left >= held {
		t.Errorf("%d bytes of %d are kept", left, held)
	}
}

// TestRefreshWithoutSnapshot drops a snapshot that somebody has deleted meanwhile, and not one that
// was made anew under the name.
func TestRefreshWithoutSnapshot(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	was := time.Unix(1000, 5)
	if err := d.CreateInstance(t.Context(), Instance{Name: "c"}, Snapshot{Name: "old", Files: "a", CreatedAt: was},
		Snapshot{Name: "anew", Files: "b", CreatedAt: was.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if err := d.RefreshInstance(t.Context(), "c", func(*Instance) error { return nil }, []SnapshotAge{{"gone", was},
		{"old", was}, {"anew", was}}, []Snapshot{{Name: "new", CreatedAt: was.Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	list, err := d.Snapshots(t.Context(), "c")
	if err != nil || len(list) != 2 || list[0].Name != "anew" || list[1].Name != "new" {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestMoveDamaged leaves an instance whose row can't be read where it is.
func TestMoveDamaged(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	there := project.In(t.Context(), project.Alone("a"))
	if err := errors.Join(d.CreateProject(t.Context(), Project{Name: "a"}, Profile{Name: "default"}),
		d.CreateInstance(t.Context(), Instance{Name: "c"})); err != nil {
		t.Fatal(err)
	}
	execute(t, d, `UPDATE instances SET config = X'00ff'`)
	if err := d.MoveInstance(t.Context(), there, "c", "c", nil); !errors.Is(err, kiln.Integrity) {
		t.Error(err)
	}
	if _, err := d.Instance(t.Context(), "c"); err != nil {
		t.Error(err)
	}
}

// TestTxEnds: each transaction makes another version, and one that ended with its context says
// that of it.
func TestTxEnds(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	was := d.Version()
	if err := setConfig(t.Context(), d, map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if d.Version() == was {
		t.Error("what has changed is of the same version")
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Tx(ctx, func(*Tx) error { cancel(); return sql.ErrTxDone })
	if !errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrTxDone) {
		t.Error(err)
	}
}
