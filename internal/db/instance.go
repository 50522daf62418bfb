package db

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
)

// An Instance is a row of instances.
type Instance struct {
	Name, Type, Architecture, Description string
	Ephemeral, Running                    bool
	CreatedAt, LastUsedAt                 time.Time
	Base                                  kiln.Fingerprint // of its image; zero: none
	Config                                map[string]string
	Devices                               map[string]map[string]string
	Profiles                              []string
	Damage                                string // what of the row can't be read; "": nothing
}

// instanceColumns are those that Instance.values writes.
const instanceColumns = `name, type, architecture, description, ephemeral, running, created_at, last_used_at, base, config, devices`

// scan reads the number of a row, and its instanceColumns.
func (i *Instance) scan(row interface{ Scan(...any) error }, id *int64) error {
	i.Damage = ""
	return row.Scan(id, noted{"name", &i.Name, &i.Damage},
		noted{"type", instanceType(&i.Type), &i.Damage},
		noted{"architecture", &i.Architecture, &i.Damage},
		noted{"description", &i.Description, &i.Damage},
		noted{"ephemeral", &i.Ephemeral, &i.Damage},
		noted{"running", &i.Running, &i.Damage},
		noted{"created_at", timeColumn{&i.CreatedAt}, &i.Damage},
		noted{"last_used_at", timeColumn{&i.LastUsedAt}, &i.Damage},
		noted{"base", hashColumn{&i.Base}, &i.Damage},
		noted{"config", jsonColumn{&i.Config}, &i.Damage},
		noted{"devices", jsonColumn{&i.Devices}, &i.Damage})
}

func (i *Instance) values() []any {
	return []any{i.Name, i.Type, i.Architecture, i.Description, i.Ephemeral, i.Running,
		timeText(i.CreatedAt), timeText(i.LastUsedAt), hashText(i.Base),
		toJSON(orEmpty(i.Config)), toJSON(orEmpty(i.Devices))}
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

func orNone(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// Instances gives every instance, by name.
func (d *DB) Instances(ctx context.Context) ([]Instance, error) {
	var list []Instance
	err := d.view(ctx, func(v queryer) error {
		used, err := profilesOf(ctx, v, instancesProfiles, ``)
		if err != nil {
			return err
		}
		return each(ctx, v, `SELECT id, `+instanceColumns+` FROM instances ORDER BY name`, nil, func(rows *sql.Rows) error {
			var i Instance
			var id int64
			err := i.scan(rows, &id)
			i.Profiles = orNone(used[id])
			list = append(list, i)
			return err
		})
	})
	return list, err
}

// Instance gives one instance. The error is NotFound.
func (d *DB) Instance(ctx context.Context, name string) (i Instance, err error) {
	err = d.view(ctx, func(v queryer) error {
		i, _, err = getInstance(ctx, v, name)
		return err
	})
	return i, err
}

// getInstance also gives the number of the row.
func getInstance(ctx context.Context, q queryer, name string) (i Instance, id int64, err error) {
	err = i.scan(q.QueryRowContext(ctx, `SELECT id, `+instanceColumns+` FROM instances WHERE name = ?`, name), &id)
	if err != nil {
		return i, id, found(err, "Instance", name)
	}
	used, err := profilesOf(ctx, q, instancesProfiles, `WHERE o.instance_id = ?`, id)
	i.Profiles = orNone(used[id])
	return i, id, err
}

// CreateInstance adds a row, with those of its snapshots. Errors: Conflict when the
// name is taken, Invalid when one of its profiles isn't there.
func (d *DB) CreateInstance(ctx context.Context, i Instance, snapshots ...Snapshot) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(i.Name)
		var id int64
		err := tx.tx.QueryRowContext(ctx, `INSERT INTO instances (`+instanceColumns+`) VALUES
			(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`, i.values()...).Scan(&id)
		if err != nil {
			return conflict(err, "Instance", i.Name)
		}
		if err := setProfiles(ctx, tx, instancesProfiles, id, i.Profiles); err != nil {
			return err
		}
		for _, s := range snapshots {
			s.Instance = i.Name
			if err := createSnapshot(ctx, tx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// EditInstance reads a row, lets f change all but its name, and writes it back, in
// one transaction. Errors: NotFound, Invalid for a profile that is none, Integrity when the row is damaged, those of f.
func (d *DB) EditInstance(ctx context.Context, name string, f func(*Instance) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		i, id, err := getInstance(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		if i.Damage != "" { // what can't be read would be overwritten
			return kiln.Errorf(kiln.Integrity, "instance %q can't be changed: %s", name, i.Damage)
		}
		tx.instanceChanged(name)
		before := slices.Clone(i.Profiles)
		if err := f(&i); err != nil {
			return err
		}
		if !slices.Equal(before, i.Profiles) {
			if err := setProfiles(ctx, tx, instancesProfiles, id, i.Profiles); err != nil {
				return err
			}
		}
		_, err = tx.tx.ExecContext(ctx, `UPDATE instances SET type = ?, architecture = ?, description = ?, ephemeral = ?, running = ?,
			created_at = ?, last_used_at = ?, base = ?, config = ?, devices = ? WHERE id = ?`,
			append(i.values()[1:], id)...)
		return err
	})
}

// RenameInstance changes a name. Errors: NotFound, Conflict.
func (d *DB) RenameInstance(ctx context.Context, from, to string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(from, to)
		r, err := tx.tx.ExecContext(ctx, `UPDATE instances SET name = ? WHERE name = ?`, to, from)
		if err != nil {
			return conflict(err, "Instance", to)
		}
		return changed(r, err, "Instance", from)
	})
}

// DeleteInstance removes a row. The error is NotFound.
func (d *DB) DeleteInstance(ctx context.Context, name string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(name)
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM instances WHERE name = ?`, name)
		return changed(r, err, "Instance", name)
	})
}
