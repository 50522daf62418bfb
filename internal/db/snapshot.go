package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Snapshot is a row of instance_snapshots: an instance as it was at one moment.
type Snapshot struct {
	Project                          string // of the instance
	Instance, Name, Files            string // Files names the files in the pool
	CreatedAt, ExpiresAt, LastUsedAt time.Time
	Architecture, Description        string
	Ephemeral                        bool
	Base                             kiln.Fingerprint // of the image; zero: none
	Config                           map[string]string
	Devices                          map[string]map[string]string
	Profiles                         []string
	Damage                           string // what of the row can't be read; "": nothing
}

// snapshotColumns are those of a snapshot s and its instance i.
const snapshotColumns = `s.id, (SELECT name FROM projects WHERE id = i.project_id), i.name, s.name, s.files, s.created_at, s.expires_at, s.last_used_at, s.architecture,
	s.description, s.ephemeral, s.base, s.config, s.devices`

// snapshotTables are where they are.
const snapshotTables = `instance_snapshots s JOIN instances i ON i.id = s.instance_id`

// scan reads the number of a row and the rest of snapshotColumns.
func (s *Snapshot) scan(row interface{ Scan(...any) error }, id *int64) error {
	s.Damage = ""
	return row.Scan(id, &s.Project, &s.Instance,
		noted{"name", &s.Name, &s.Damage},
		noted{"files", &s.Files, &s.Damage},
		noted{"created_at", timeColumn{&s.CreatedAt}, &s.Damage},
		noted{"expires_at", timeColumn{&s.ExpiresAt}, &s.Damage},
		noted{"last_used_at", timeColumn{&s.LastUsedAt}, &s.Damage},
		noted{"architecture", &s.Architecture, &s.Damage},
		noted{"description", &s.Description, &s.Damage},
		noted{"ephemeral", &s.Ephemeral, &s.Damage},
		noted{"base", hashColumn{&s.Base}, &s.Damage},
		noted{"config", jsonColumn{&s.Config}, &s.Damage},
		noted{"devices", jsonColumn{&s.Devices}, &s.Damage})
}

// Snapshots gives the snapshots of an instance, oldest first.
func (d *DB) Snapshots(ctx context.Context, instance string) ([]Snapshot, error) {
	in, err := projectID(ctx, d.read, project.Instances)
	if err != nil {
		return nil, err
	}
	var list []Snapshot
	err = d.snapshots(ctx, func(_ int64, s Snapshot) { list = append(list, s) },
		`WHERE i.project_id = ? AND i.name = ? ORDER BY s.created_at, s.name`, in, instance)
	return list, err
}

// EachSnapshot calls f with each of them in turn, as long as it gives no error. The database
// is read meanwhile.
func (d *DB) EachSnapshot(ctx context.Context, instance string, f func(Snapshot) error) error {
	in, err := projectID(ctx, d.read, project.Instances)
	if err != nil {
		return err
	}
	var failed error
	err = d.snapshots(ctx, func(_ int64, s Snapshot) {
		if failed == nil {
			failed = f(s)
		}
	}, `WHERE i.project_id = ? AND i.name = ? ORDER BY s.created_at, s.name`, in, instance)
	if failed != nil {
		return failed
	}
	return err
}

func (d *DB) snapshots(ctx context.Context, add func(id int64, s Snapshot), which string, args ...any) error {
	return d.view(ctx, func(v queryer) error {
		used, err := profilesOf(ctx, v, snapshotsProfiles,
			`WHERE o.snapshot_id IN (SELECT s.id FROM `+snapshotTables+` `+which+`)`, args...)
		if err != nil {
			return err
		}
		return each(ctx, v, `SELECT `+snapshotColumns+` FROM `+snapshotTables+` `+which, args,
			func(rows *sql.Rows) error {
				var s Snapshot
				var id int64
				err := s.scan(rows, &id)
				s.Profiles = orNone(used[id])
				add(id, s)
				return err
			})
	})
}

// A SnapshotRef is where a snapshot is, and what lists of many show of it.
type SnapshotRef struct {
	ID                      int64
	Project, Instance, Name string
	CreatedAt               time.Time
	Text                    int64 // bytes of JSON that it is configured with
}

// SnapshotRefs gives those of one instance, or for "" of every instance of the projects that
// ctx is about, in the order of Instances, oldest first.
func (d *DB) SnapshotRefs(ctx context.Context, instance string) (list []SnapshotRef, err error) {
	in, args, err := within(ctx, project.Instances, "i.project_id")
	if err != nil {
		return nil, err
	}
	if instance != "" {
		in, args = in+` AND i.name = ?`, append(args, instance)
	}
	err = each(ctx, d.read, `SELECT s.id, (SELECT name FROM projects WHERE id = i.project_id), i.name, s.name,
		s.created_at, coalesce(octet_length(s.description) + octet_length(s.config) + octet_length(s.devices), 0)
		FROM `+snapshotTables+` WHERE `+in+` ORDER BY i.name, i.project_id, s.created_at, s.name`, args,
		func(rows *sql.Rows) error {
			var r SnapshotRef
			err := rows.Scan(&r.ID, &r.Project, &r.Instance, noted{"name", &r.Name, new(string)},
				noted{"created_at", timeColumn{&r.CreatedAt}, new(string)}, &r.Text)
			list = append(list, r)
			return err
		})
	return list, err
}

// SnapshotsAt gives the snapshots at refs, by their IDs. Those that are gone are left out.
func (d *DB) SnapshotsAt(ctx context.Context, refs []SnapshotRef) (map[int64]Snapshot, error) {
	ids := make([]int64, len(refs))
	for i, r := range refs {
		ids[i] = r.ID
	}
	b, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	all := make(map[int64]Snapshot, len(refs))
	return all, d.snapshots(ctx, func(id int64, s Snapshot) { all[id] = s },
		`WHERE s.id IN (SELECT value FROM json_each(?))`, string(b))
}

// SnapshotFiles are what a snapshot is called, and its files: what many need to know of
// all of them, whose configurations may be large together.
type SnapshotFiles struct {
	Project, Instance, Name, Files string
	Damage                         string // what of these can't be read; "": nothing
}

// SnapshotFiles gives those of an instance, oldest first.
func (d *DB) SnapshotFiles(ctx context.Context, instance string) ([]SnapshotFiles, error) {
	in, err := projectID(ctx, d.read, project.Instances)
	if err != nil {
		return nil, err
	}
	return d.snapshotFiles(ctx, `WHERE i.project_id = ? AND i.name = ? ORDER BY s.created_at, s.name`, in, instance)
}

// AllSnapshotFiles gives those of every instance of the projects that ctx is about, oldest
// first.
func (d *DB) AllSnapshotFiles(ctx context.Context) ([]SnapshotFiles, error) {
	in, args, err := within(ctx, project.Instances, "i.project_id")
	if err != nil {
		return nil, err
	}
	return d.snapshotFiles(ctx, `WHERE `+in+` ORDER BY i.name, i.project_id, s.created_at, s.name`, args...)
}

func (d *DB) snapshotFiles(ctx context.Context, which string, args ...any) (list []SnapshotFiles, err error) {
	err = each(ctx, d.read, `SELECT (SELECT name FROM projects WHERE id = i.project_id), i.name, s.name, s.files FROM `+
		snapshotTables+` `+which, args, func(rows *sql.Rows) error {
		var s SnapshotFiles
		err := rows.Scan(&s.Project, &s.Instance, noted{"name", &s.Name, &s.Damage}, noted{"files", &s.Files, &s.Damage})
		list = append(list, s)
		return err
	})
	return list, err
}

// SnapshotText gives how many snapshots an instance has, and how many bytes of JSON they
// are configured with together.
func (d *DB) SnapshotText(ctx context.Context, instance string) (n int, bytes int64, err error) {
	in, err := projectID(ctx, d.read, project.Instances)
	if err != nil {
		return 0, 0, err
	}
	err = d.read.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(octet_length(s.description) +
		octet_length(s.config) + octet_length(s.devices)), 0) FROM `+snapshotTables+`
		WHERE i.project_id = ? AND i.name = ?`, in, instance).Scan(&n, &bytes)
	return n, bytes, known(err)
}

// Snapshot gives one snapshot. The error is NotFound.
func (d *DB) Snapshot(ctx context.Context, instance, name string) (Snapshot, error) {
	var s Snapshot
	err := d.view(ctx, func(v queryer) (err error) {
		s, _, err = getSnapshot(ctx, v, instance, name)
		return err
	})
	return s, err
}

// Whole says whether all of the row could be read. The error is Integrity.
func (s *Snapshot) Whole() error {
	if s.Damage == "" {
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "snapshot %s/%s can't be used: %s; delete it (kiln snapshot delete %s %s), or "+
		"bring a copy of the database back: kiln admin restore-database", s.Instance, s.Name, s.Damage, s.Instance, s.Name)
}

// getSnapshot also gives the number of the row.
func getSnapshot(ctx context.Context, q queryer, instance, name string) (s Snapshot, id int64, err error) {
	in, err := projectID(ctx, q, project.Instances)
	if err != nil {
		return s, 0, err
	}
	err = s.scan(q.QueryRowContext(ctx, `SELECT `+snapshotColumns+` FROM `+snapshotTables+
		` WHERE i.project_id = ? AND i.name = ? AND s.name = ?`, in, instance, name), &id)
	if err != nil {
		return s, id, found(err, "Snapshot", instance+"/"+name)
	}
	if _, _, err := getInstance(ctx, q, instance); err != nil {
		return s, id, err
	}
	if err := s.checkMeant(ctx); err != nil {
		return s, id, err
	}
	used, err := profilesOf(ctx, q, snapshotsProfiles, `WHERE o.snapshot_id = ?`, id)
	s.Profiles = orNone(used[id])
	return s, id, err
}

// Expired reports whether the time of a snapshot is over. Of a damaged one nobody can tell.
func (s *Snapshot) Expired(now time.Time) bool {
	return s.Damage == "" && !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(now)
}

// ExpiredSnapshots gives the snapshots whose time is over. Of a damaged one nobody can
// tell.
func (d *DB) ExpiredSnapshots(ctx context.Context, now time.Time) ([]Snapshot, error) {
	in, args, err := within(ctx, project.Instances, "i.project_id")
	if err != nil {
		return nil, err
	}
	var list []Snapshot
	err = d.snapshots(ctx, func(_ int64, s Snapshot) {
		if s.Expired(now) {
			list = append(list, s)
		}
	}, `WHERE s.expires_at <> '' AND `+in+` ORDER BY s.expires_at`, args...)
	return list, err
}

// CreateSnapshot adds a row. Errors: Conflict when the name is taken, NotFound for the
// instance.
func (d *DB) CreateSnapshot(ctx context.Context, s Snapshot) error {
	return d.Tx(ctx, func(tx *Tx) error { return createSnapshot(ctx, tx, s) })
}

func createSnapshot(ctx context.Context, tx *Tx, s Snapshot) error {
	tx.instanceChanged(ctx, s.Instance)
	_, of, err := getInstance(ctx, tx.tx, s.Instance)
	if err != nil {
		return err
	}
	var id int64
	err = tx.tx.QueryRowContext(ctx, `INSERT INTO instance_snapshots (instance_id, name, files, created_at, expires_at,
		last_used_at, architecture, description, ephemeral, base, config, devices)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		of, s.Name, s.Files, timeText(s.CreatedAt), zonedText(s.ExpiresAt), timeText(s.LastUsedAt), s.Architecture,
		s.Description, s.Ephemeral, hashText(s.Base), toJSON(orEmpty(s.Config)), toJSON(orEmpty(s.Devices))).Scan(&id)
	if err != nil {
		return conflict(err, "Snapshot", s.Instance+"/"+s.Name)
	}
	return setProfiles(ctx, tx, snapshotsProfiles, id, s.Profiles)
}

// SetSnapshotExpiry changes when a snapshot's time is over, in one transaction; zero:
// never. Errors: NotFound, Integrity for a damaged row, and those of change.
func (d *DB) SetSnapshotExpiry(ctx context.Context, instance, name string,
	change func(time.Time) (time.Time, error)) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(ctx, instance)
		s, id, err := getSnapshot(ctx, tx.tx, instance, name)
		if err == nil {
			err = s.Whole()
		}
		if err != nil {
			return err
		}
		at, err := change(s.ExpiresAt)
		if err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `UPDATE instance_snapshots SET expires_at = ? WHERE id = ?`, zonedText(at), id)
		return err
	})
}

// RenameSnapshot changes a name. Errors: NotFound, Conflict.
func (d *DB) RenameSnapshot(ctx context.Context, instance, from, to string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(ctx, instance)
		_, id, err := getSnapshot(ctx, tx.tx, instance, from)
		if err != nil {
			return err
		}
		if _, err := tx.tx.ExecContext(ctx, `UPDATE instance_snapshots SET name = ? WHERE id = ?`, to, id); err != nil {
			return conflict(err, "Snapshot", instance+"/"+to)
		}
		return nil
	})
}

// DeleteSnapshot removes a row. The error is NotFound.
func (d *DB) DeleteSnapshot(ctx context.Context, instance, name string) error {
	return d.DeleteSnapshotIf(ctx, instance, name, nil)
}

// DeleteSnapshotIf removes a row if it is unwanted, which is looked at in the same transaction;
// nil: whatever it is. Errors: NotFound, Conflict.
func (d *DB) DeleteSnapshotIf(ctx context.Context, instance, name string, unwanted func(Snapshot) bool) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error { return deleteSnapshot(ctx, tx, instance, name, unwanted) })
}

func deleteSnapshot(ctx context.Context, tx *Tx, instance, name string, unwanted func(Snapshot) bool) error {
	tx.instanceChanged(ctx, instance)
	s, id, err := getSnapshot(ctx, tx.tx, instance, name)
	if err == nil && unwanted != nil && !unwanted(s) {
		err = kiln.Errorf(kiln.Conflict, "snapshot %s/%s was changed meanwhile, and stays", instance, name)
	}
	if err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `DELETE FROM instance_snapshots WHERE id = ?`, id)
	return err
}
