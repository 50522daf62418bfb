package db

import (
	"context"
	"database/sql"
	"slices"
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
	return d.snapshots(ctx, `WHERE i.project_id = ? AND i.name = ? ORDER BY s.created_at, s.name`, in, instance)
}

// AllSnapshots gives the snapshots of every instance of the projects that ctx is about,
// oldest first.
func (d *DB) AllSnapshots(ctx context.Context) ([]Snapshot, error) {
	in, args, err := within(ctx, project.Instances, "i.project_id")
	if err != nil {
		return nil, err
	}
	return d.snapshots(ctx, `WHERE `+in+` ORDER BY i.name, i.project_id, s.created_at, s.name`, args...)
}

func (d *DB) snapshots(ctx context.Context, which string, args ...any) ([]Snapshot, error) {
	var list []Snapshot
	err := d.view(ctx, func(v queryer) error {
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
				list = append(list, s)
				return err
			})
	})
	return list, err
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

// ExpiredSnapshots gives the snapshots whose time is over. Of a damaged one nobody can
// tell.
func (d *DB) ExpiredSnapshots(ctx context.Context, now time.Time) ([]Snapshot, error) {
	in, args, err := within(ctx, project.Instances, "i.project_id")
	if err != nil {
		return nil, err
	}
	list, err := d.snapshots(ctx, `WHERE s.expires_at <> '' AND `+in+` ORDER BY s.expires_at`, args...)
	return slices.DeleteFunc(list, func(s Snapshot) bool { return s.Damage != "" || s.ExpiresAt.After(now) }), err
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
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		tx.instanceChanged(ctx, instance)
		_, id, err := getSnapshot(ctx, tx.tx, instance, name)
		if err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `DELETE FROM instance_snapshots WHERE id = ?`, id)
		return err
	})
}
