package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestRecoverSameNames brings back instances whose records have the same name: the oldest
// keeps it, whatever its UUID, and a name that is made up and taken is made up again.
func TestRecoverSameNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	const many = 4
	var uuids []string
	for n := range many {
		name := fmt.Sprint("c", n)
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
		i, err := d.Instance(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		uuids = append(uuids, i.Options[instance.UUIDKey])
	}
	if err := errors.Join(d.instances.SaveRecords(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(uuids) // as a directory is read
	pool := unswept(t, dir)
	for n, uuid := range uuids {
		r, err := instance.Recorded(pool, uuid)
		if err != nil {
			t.Fatal(err)
		}
		r.Instance.Name = "web"
		if n == many-1 {
			r.Instance.Name = madeUpFor(uuids[0])
		}
		r.Instance.CreatedAt = time.Now().Add(-time.Duration(n) * time.Hour)
		b, err := r.Encode()
		if err := errors.Join(err, pool.SetNote(uuid, b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	loseDatabase(t, dir)
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Remarks) != 2 || len(r.Left) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	rows, err := db.Open(t.Context(), filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	want := map[string]string{uuids[3]: madeUpFor(uuids[0]), uuids[2]: "web", uuids[1]: madeUpFor(uuids[1]),
		uuids[0]: "recovered-" + uuids[0]}
	for uuid, name := range want {
		if i, err := rows.Instance(t.Context(), name); err != nil || i.Config[instance.UUIDKey] != uuid {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

// TestRecoverUnusable has a volume of which nothing says any more what it stands on: no
// instance is made of it, and it stays for good.
func TestRecoverUnusable(t *testing.T) {
	dir, before := populated(t)
	loseDatabase(t, dir)
	uuid := before.Instances[1].Options[instance.UUIDKey]
	vol := filepath.Join(dir, "volumes/volumes", uuid)
	if err := errors.Join(os.Remove(filepath.Join(vol, "volume.json")),
		unix.Removexattr(vol, "trusted.kiln.record")); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Instances) != 1 || len(r.Left) != 1 || !strings.Contains(r.Left[0], uuid) {
		t.Fatalf("%+v, %v", r, err)
	}
	lost, err := ListLost(t.Context(), dir)
	if err != nil || len(lost) != 1 || lost[0].Kind != "volume" || !lost[0].GoesAt.IsZero() {
		t.Errorf("%+v, %v", lost, err)
	}
}

// TestRecoverNameInUse has a name that several have: who is in use has it, not who was put away
// or has no files any more. What an instance that was put away knows of a profile doesn't count.
func TestRecoverNameInUse(t *testing.T) {
	const before, after = "29990101", "29990102" // of the daemon's own copies
	in := []string{defaultProfile, "web"}
	create := func(t *testing.T, d *Daemon, description string) {
		t.Helper()
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "none"},
			Config: instance.Config{Description: description, Profiles: in}})
		wait(t, o, err)
	}
	remove := func(t *testing.T, d *Daemon) {
		t.Helper()
		o, err := d.DeleteInstance(t.Context(), "c1")
		wait(t, o, err)
	}
	rebuild := func(t *testing.T, d *Daemon) {
		t.Helper()
		err := d.instances.CreateSnapshot(t.Context(), "c1", instance.NewSnapshot{Name: "s1"})
		o, rerr := d.RebuildInstance(t.Context(), "c1", Source{Type: "none"}, false)
		wait(t, o, errors.Join(err, rerr))
	}
	copied := func(t *testing.T, d *Daemon, dir, name string) {
		t.Helper()
		at := filepath.Join(dir, backupsDir, "kiln-"+name+".db")
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), d.db.Backup(t.Context(), at)); err != nil {
			t.Fatal(err)
		}
	}
	// goBack has a daemon that ends go on with the copy, or none.
	goBack := func(t *testing.T, d *Daemon, dir string) *Daemon {
		t.Helper()
		saved := d.saveRecords(t.Context())
		end(t, d)
		if _, err := RestoreDatabase(t.Context(), dir, filepath.Join(dir, backupsDir, "kiln-"+before+".db")); err != nil ||
			saved != nil {
			t.Fatal(err, saved)
		}
		return open(t, dir)
	}
	for name, tt := range map[string]struct {
		happens   func(t *testing.T, d *Daemon, dir string) *Daemon
		lost      bool // the database, afterwards
		copied    bool // before that
		others    int
		snapshots int
	}{
		"deleted and made again": {func(t *testing.T, d *Daemon, dir string) *Daemon {
			create(t, d, "first")
			copied(t, d, dir, before)
			remove(t, d)
			create(t, d, "in use")
			return d
		}, true, false, 1, 0},
		"put away while the database is whole": {func(t *testing.T, d *Daemon, dir string) *Daemon {
			create(t, d, "first")
			copied(t, d, dir, before)
			remove(t, d)
			create(t, d, "in use")
			return goBack(t, d, dir)
		}, false, false, 1, 0},
		"put away, and another made": {func(t *testing.T, d *Daemon, dir string) *Daemon {
			copied(t, d, dir, before)
			create(t, d, "put away")
			d = goBack(t, d, dir)
			create(t, d, "in use")
			return d
		}, true, true, 1, 0},
		"rebuilt, while the database is whole": {func(t *testing.T, d *Daemon, dir string) *Daemon {
			create(t, d, "in use")
			copied(t, d, dir, before)
			rebuild(t, d)
			return goBack(t, d, dir)
		}, false, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
			d := open(t, dir)
			if err := d.CreateProfile(ctx, db.Profile{Name: "web", Config: map[string]string{"user.x": "old"}}); err != nil {
				t.Fatal(err)
			}
			d = tt.happens(t, d, dir)
			err := d.db.EditProfile(ctx, "web", func(p *db.Profile) error { p.Config["user.x"] = "new"; return nil })
			if tt.copied {
				copied(t, d, dir, after)
			}
			if err := errors.Join(err, d.saveRecords(ctx)); err != nil {
				t.Fatal(err)
			}
			end(t, d)
			if tt.lost {
				err = os.Remove(filepath.Join(dir, databaseFile))
			}
			r, rerr := Recover(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
			if err := errors.Join(err, rerr); err != nil || len(r.Left) > 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			d = open(t, dir)
			defer end(t, d)
			i, err := d.instances.Get(ctx, "c1")
			all, aerr := d.Instances(ctx)
			list, serr := d.Snapshots(ctx, "c1")
			p, perr := d.db.Profile(ctx, "web")
			if err := errors.Join(err, aerr, serr, perr); err != nil || i.Description != "in use" || i.Problem != "" ||
				len(all) != 1+tt.others || len(list) != tt.snapshots || p.Config["user.x"] != "new" {
				t.Errorf("%q, %q, %d instances, %d snapshots, profile %v, %v: %+v", i.Description, i.Problem, len(all), len(list),
					p.Config, err, r)
			}
		})
	}
}
