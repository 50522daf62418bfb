package db

import (
	"context"
	"database/sql"
	"slices"

	"github.com/kiln-containers/kiln"
)

// A Profile is a row of profiles: configuration that instances share.
type Profile struct {
	Name, Description string
	Config            map[string]string
	Devices           map[string]map[string]string
	Damage            string // what of the row can't be read; "": nothing
}

const profileColumns = `name, description, config, devices`

func (p *Profile) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(noted{"name", &p.Name, &p.Damage},
		noted{"description", &p.Description, &p.Damage},
		noted{"config", jsonColumn{&p.Config}, &p.Damage},
		noted{"devices", jsonColumn{&p.Devices}, &p.Damage})
}

// Profiles gives every profile, by name.
func (d *DB) Profiles(ctx context.Context) ([]Profile, error) {
	var list []Profile
	err := each(ctx, d.read, `SELECT `+profileColumns+` FROM profiles ORDER BY name`, nil,
		func(rows *sql.Rows) error {
			var p Profile
			err := p.scan(rows)
			list = append(list, p)
			return err
		})
	return list, err
}

// Profile gives one profile. The error is NotFound.
func (d *DB) Profile(ctx context.Context, name string) (Profile, error) {
	return getProfile(ctx, d.read, name)
}

func getProfile(ctx context.Context, q queryer, name string) (Profile, error) {
	var p Profile
	err := p.scan(q.QueryRowContext(ctx, `SELECT `+profileColumns+` FROM profiles WHERE name = ?`, name))
	return p, found(err, "Profile", name)
}

// CreateProfile adds a row. The error is Conflict when the name is taken.
func (d *DB) CreateProfile(ctx context.Context, p Profile) error {
	return d.Tx(ctx, func(tx *Tx) error {
		_, err := tx.tx.ExecContext(ctx, `INSERT INTO profiles (name, description, config, devices) VALUES (?, ?, ?, ?)`,
			p.Name, p.Description, toJSON(orEmpty(p.Config)), toJSON(orEmpty(p.Devices)))
		return conflict(err, "Profile", p.Name)
	})
}

// EditProfile reads a row, lets f change all but its name, and writes it back, in one
// transaction. Errors: NotFound, Integrity when the row is damaged, those of f.
func (d *DB) EditProfile(ctx context.Context, name string, f func(*Profile) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		p, err := getProfile(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		if p.Damage != "" { // what can't be read would be overwritten
			return kiln.Errorf(kiln.Integrity, "profile %q can't be changed: %s; take it from its instances and delete it, or "+
				"bring a copy of the database back: kiln admin restore-database", name, p.Damage)
		}
		if err := f(&p); err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `UPDATE profiles SET description = ?, config = ?, devices = ? WHERE name = ?`,
			p.Description, toJSON(orEmpty(p.Config)), toJSON(orEmpty(p.Devices)), name)
		return err
	})
}

// RenameProfile changes a name, in the instances, snapshots and images that use it
// as well.
// Errors: NotFound, Conflict.
func (d *DB) RenameProfile(ctx context.Context, from, to string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx, `UPDATE profiles SET name = ? WHERE name = ?`, to, from)
		if err != nil {
			return conflict(err, "Profile", to)
		}
		if err := changed(r, err, "Profile", from); err != nil {
			return err
		}
		return replaceProfile(ctx, tx, from, to)
	})
}

// DeleteProfile removes a row, and the name from images and snapshots. Errors: NotFound,
// Conflict when an instance has it.
func (d *DB) DeleteProfile(ctx context.Context, name string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		var used []string
		err := each(ctx, tx.tx, `SELECT name, profiles FROM instances ORDER BY name`, nil, func(rows *sql.Rows) error {
			var instance string
			var list []string
			err := rows.Scan(&instance, jsonColumn{&list})
			if slices.Contains(list, name) {
				used = append(used, instance)
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(used) > 0 {
			return kiln.Errorf(kiln.Conflict, "Profile '%s' is in use by: %v", name, used)
		}
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM profiles WHERE name = ?`, name)
		if err := changed(r, err, "Profile", name); err != nil {
			return err
		}
		return replaceProfile(ctx, tx, name, "")
	})
}

// haveProfiles says which of the names is no profile. The error is Invalid.
func haveProfiles(ctx context.Context, tx *Tx, names []string) error {
	for _, name := range names {
		var has bool
		if err := tx.tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM profiles WHERE name = ?)`, name).
			Scan(&has); err != nil {
			return err
		}
		if !has {
			return kiln.Errorf(kiln.Invalid, "Profile '%s' doesn't exist", name)
		}
	}
	return nil
}

// replaceProfile puts another name, or none, into every list of profiles.
func replaceProfile(ctx context.Context, tx *Tx, from, to string) error {
	for _, table := range []struct{ read, write string }{
		{`SELECT name, profiles FROM instances`, `UPDATE instances SET profiles = ? WHERE name = ?`},
		{`SELECT files, profiles FROM instance_snapshots`, `UPDATE instance_snapshots SET profiles = ? WHERE files = ?`},
		{`SELECT fingerprint, profiles FROM images`, `UPDATE images SET profiles = ? WHERE fingerprint = ?`},
	} {
		lists := map[string][]string{}
		err := each(ctx, tx.tx, table.read, nil, func(rows *sql.Rows) error {
			var key string
			var list []string
			err := rows.Scan(&key, jsonColumn{&list})
			if slices.Contains(list, from) {
				lists[key] = list
			}
			return err
		})
		if err != nil {
			return err
		}
		for key, list := range lists {
			at := slices.Index(list, from)
			if to == "" {
				list = slices.Delete(list, at, at+1)
			} else {
				list[at] = to
			}
			if _, err := tx.tx.ExecContext(ctx, table.write, toJSON(list), key); err != nil {
				return err
			}
		}
	}
	return nil
}
