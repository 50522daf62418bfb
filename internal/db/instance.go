package db

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// An Instance is a row of instances.
type Instance struct {
	Project                               string // its name
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

// instanceSelect are all that scan reads.
const instanceSelect = `SELECT id, (SELECT name FROM projects WHERE id = project_id), ` + instanceColumns + ` FROM instances`

// scan reads what instanceSelect gives.
func (i *Instance) scan(row interface{ Scan(...any) error }, id *int64) error {
	i.Damage = ""
	return row.Scan(id, &i.Project, noted{"name", &i.Name, &i.Damage},
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

// Instances gives the instances of the projects that ctx is about, by name.
func (d *DB) Instances(ctx context.Context) ([]Instance, error) {
	var list []Instance
	in, args, err := within(ctx, project.Instances, "project_id")
	if err != nil {
		return nil, err
	}
	err = d.view(ctx, func(v queryer) error {
		used, err := profilesOf(ctx, v, instancesProfiles,
			`WHERE o.instance_id IN (SELECT id FROM instances WHERE `+in+`)`, args...)
		if err != nil {
			return err
		}
		return each(ctx, v, instanceSelect+` WHERE `+in+` ORDER BY name, project_id`, args, func(rows *sql.Rows) error {
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

// Instance gives one instance. Errors: NotFound, Conflict as of Meaning.
func (d *DB) Instance(ctx context.Context, name string) (i Instance, err error) {
	err = d.view(ctx, func(v queryer) error {
		i, _, err = getInstance(ctx, v, name)
		return err
	})
	return i, err
}

// getInstance also gives the number of the row.
func getInstance(ctx context.Context, q queryer, name string) (i Instance, id int64, err error) {
	in, err := projectID(ctx, q, project.Instances)
	if err != nil {
		return i, 0, err
	}
	err = i.scan(q.QueryRowContext(ctx, instanceSelect+` WHERE project_id = ? AND name = ?`, in, name), &id)
	if err != nil {
		return i, id, found(err, "Instance", name)
	}
	if err := i.checkMeant(ctx); err != nil {
		return i, id, err
	}
	used, err := profilesOf(ctx, q, instancesProfiles, `WHERE o.instance_id = ?`, id)
	i.Profiles = orNone(used[id])
	return i, id, err
}

// CreateInstance adds a row, with those of its snapshots. Errors: Conflict when the
// name is taken, Denied when the project has as many instances as it may, Invalid when one of its profiles isn't there.
func (d *DB) CreateInstance(ctx context.Context, i Instance, snapshots ...Snapshot) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(ctx, i.Name)
		in, err := projectID(ctx, tx.tx, project.Instances)
		if err != nil {
			return err
		}
		var id int64
		err = tx.tx.QueryRowContext(ctx, `INSERT INTO instances (project_id, `+instanceColumns+`) VALUES
			(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`, append([]any{in}, i.values()...)...).Scan(&id)
		if err != nil {
			return conflict(err, "Instance", i.Name)
		}
		if err := setProfiles(ctx, tx, instancesProfiles, id, i.Profiles); err != nil {
			return err
		}
		if err := cmp.Or(checkLimits(ctx, tx, in), checkRules(ctx, tx, in, id)); err != nil {
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
	return d.Tx(ctx, func(tx *Tx) error { return editInstance(ctx, tx, name, f) })
}

// TryInstance is EditInstance that changes nothing: it says whether that would be refused.
func (d *DB) TryInstance(ctx context.Context, name string, f func(*Instance) error) error {
	tried := errors.New("tried")
	err := d.Tx(ctx, func(tx *Tx) error { return cmp.Or(editInstance(ctx, tx, name, f), tried) })
	if errors.Is(err, tried) {
		return nil
	}
	return err
}

// SettleInstance is EditInstance for what was decided before, when TryInstance didn't refuse
// it: nobody is asked again what the project may have, and a full disk has room for it.
func (d *DB) SettleInstance(ctx context.Context, name string, f func(*Instance) error) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		tx.unbound = true
		return editInstance(ctx, tx, name, f)
	})
}

// A SnapshotAge is a snapshot as somebody saw it: one made later may have its name by now.
type SnapshotAge struct {
	Name      string
	CreatedAt time.Time
}

// RefreshInstance is EditInstance with snapshots that the instance hasn't got any more, and
// others that it gets. One that was made anew under the name of one to drop stays. Errors: also
// Conflict.
func (d *DB) RefreshInstance(ctx context.Context, name string, f func(*Instance) error, drop []SnapshotAge,
	add []Snapshot) error {
	return d.Tx(ctx, func(tx *Tx) error {
		if err := editInstance(ctx, tx, name, f); err != nil {
			return err
		}
		for _, snap := range drop {
			same := func(s Snapshot) bool { return s.CreatedAt.Equal(snap.CreatedAt) }
			err := deleteSnapshot(ctx, tx, name, snap.Name, same)
			if err != nil && !errors.Is(err, kiln.NotFound) && !errors.Is(err, kiln.Conflict) {
				return err
			}
		}
		for _, s := range add {
			s.Instance = name
			if err := createSnapshot(ctx, tx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

func editInstance(ctx context.Context, tx *Tx, name string, f func(*Instance) error) error {
	i, id, err := getInstance(ctx, tx.tx, name)
	if err != nil {
		return err
	}
	if i.Damage != "" { // what can't be read would be overwritten
		return kiln.Errorf(kiln.Integrity, "instance %q can't be changed: %s", name, i.Damage)
	}
	tx.instanceChanged(ctx, name)
	before, had := slices.Clone(i.Profiles), maps.Clone(i.Config)
	devices := maps.Clone(i.Devices)
	if err := f(&i); err != nil {
		return err
	}
	others := !slices.Equal(before, i.Profiles)
	if others {
		if err := setProfiles(ctx, tx, instancesProfiles, id, i.Profiles); err != nil {
			return err
		}
	}
	_, err = tx.tx.ExecContext(ctx, `UPDATE instances SET type = ?, architecture = ?, description = ?, ephemeral = ?, running = ?,
			created_at = ?, last_used_at = ?, base = ?, config = ?, devices = ? WHERE id = ?`,
		append(i.values()[1:], id)...)
	limits := others || limited(had, i.Config)
	rules := limits || reconfigured(had, i.Config) || !maps.EqualFunc(devices, i.Devices, maps.Equal)
	if err != nil || !rules {
		return err
	}
	in, err := projectID(ctx, tx.tx, project.Instances)
	if err == nil && limits {
		err = checkLimits(ctx, tx, in)
	}
	return cmp.Or(err, checkRules(ctx, tx, in, id))
}

// RenameInstance changes a name, and with it the row, as EditInstance does.
// Errors: NotFound, Conflict, those of edits.
func (d *DB) RenameInstance(ctx context.Context, from, to string, edits ...func(*Instance) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.instanceChanged(ctx, from, to)
		_, id, err := getInstance(ctx, tx.tx, from)
		if err != nil {
			return err
		}
		if _, err = tx.tx.ExecContext(ctx, `UPDATE instances SET name = ? WHERE id = ?`, to, id); err != nil {
			return conflict(err, "Instance", to)
		}
		for _, f := range edits {
			if err := editInstance(ctx, tx, to, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// MoveInstance gives an instance to the project that into is about, under a name there,
// with that project's profiles of the names given; its snapshots have those of the names
// that they had, as far as they are there. edits change the row as EditInstance does.
// Errors: NotFound, also for a profile, Conflict,
// Denied when the project has as many instances as it may, Integrity when the row is damaged.
func (d *DB) MoveInstance(ctx, into context.Context, from, to string, profiles []string,
	edits ...func(*Instance) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		i, id, err := getInstance(ctx, tx.tx, from)
		if err != nil {
			return err
		}
		if i.Damage != "" {
			return kiln.Errorf(kiln.Integrity, "instance %q can't be moved: %s", from, i.Damage)
		}
		in, err := projectID(into, tx.tx, project.Instances)
		if err != nil {
			return err
		}
		tx.instanceChanged(ctx, from)
		tx.instanceChanged(into, to)
		if _, err := tx.tx.ExecContext(ctx, `UPDATE instances SET project_id = ?, name = ? WHERE id = ?`, in, to, id); err != nil {
			return conflict(err, "Instance", to)
		}
		if err := setProfiles(into, tx, instancesProfiles, id, profiles); err != nil {
			return err
		}
		if err := cmp.Or(checkLimits(ctx, tx, in), checkRules(ctx, tx, in, id)); err != nil {
			return err
		}
		for _, f := range edits {
			if err := editInstance(into, tx, to, f); err != nil {
				return err
			}
		}
		had, err := profilesOf(ctx, tx.tx, snapshotsProfiles,
			`WHERE o.snapshot_id IN (SELECT id FROM instance_snapshots WHERE instance_id = ?)`, id)
		for snapshot, names := range had {
			err = errors.Join(err, setProfiles(into, tx, snapshotsProfiles, snapshot, names))
		}
		return err
	})
}

// DeleteInstance removes a row. Errors: NotFound, Conflict as of Meaning.
func (d *DB) DeleteInstance(ctx context.Context, name string) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		tx.instanceChanged(ctx, name)
		_, id, err := getInstance(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `DELETE FROM instances WHERE id = ?`, id)
		return err
	})
}
