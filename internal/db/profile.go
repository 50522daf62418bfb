package db

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Profile is a row of profiles: configuration that instances share.
type Profile struct {
	Project           string // its name
	Name, Description string
	Config            map[string]string
	Devices           map[string]map[string]string
	Damage            string // what of the row can't be read; "": nothing
}

const profileColumns = `(SELECT name FROM projects WHERE id = project_id), name, description, config, devices`

func (p *Profile) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(&p.Project, noted{"name", &p.Name, &p.Damage},
		noted{"description", &p.Description, &p.Damage},
		noted{"config", jsonColumn{&p.Config}, &p.Damage},
		noted{"devices", jsonColumn{&p.Devices}, &p.Damage})
}

// Profiles gives the profiles of the projects that ctx is about, by name.
func (d *DB) Profiles(ctx context.Context) ([]Profile, error) {
	var list []Profile
	in, args, err := within(ctx, project.Profiles, "project_id")
	if err != nil {
		return nil, err
	}
	err = each(ctx, d.read, `SELECT `+profileColumns+` FROM profiles WHERE `+in+` ORDER BY name, project_id`, args,
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
	in, err := projectID(ctx, q, project.Profiles)
	if err != nil {
		return p, err
	}
	err = p.scan(q.QueryRowContext(ctx, `SELECT `+profileColumns+` FROM profiles WHERE project_id = ? AND name = ?`, in,
		name))
	return p, found(err, "Profile", name)
}

// CreateProfile adds a row. The error is Conflict when the name is taken.
func (d *DB) CreateProfile(ctx context.Context, p Profile) error {
	return d.Tx(ctx, func(tx *Tx) error {
		in, err := projectID(ctx, tx.tx, project.Profiles)
		if err != nil {
			return err
		}
		if err := createProfile(ctx, tx, in, p); err != nil {
			return err
		}
		return checkProfileRules(ctx, tx, in, p.Name)
	})
}

func createProfile(ctx context.Context, tx *Tx, in int64, p Profile) error {
	tx.changes.Profiles = true
	_, err := tx.tx.ExecContext(ctx, `INSERT INTO profiles (project_id, name, description, config, devices)
		VALUES (?, ?, ?, ?, ?)`, in, p.Name, p.Description, toJSON(orEmpty(p.Config)), toJSON(orEmpty(p.Devices)))
	return conflict(err, "Profile", p.Name)
}

// EditProfile reads a row, lets f change all but its name, and writes it back, in one
// transaction. Errors: NotFound, Integrity when the row is damaged, those of f.
func (d *DB) EditProfile(ctx context.Context, name string, f func(*Profile) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Profiles = true
		p, err := getProfile(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		if p.Damage != "" { // what can't be read would be overwritten
			return kiln.Errorf(kiln.Integrity, "profile %q can't be changed: %s; take it from its instances and delete it, or "+
				"bring a copy of the database back: kiln admin restore-database", name, p.Damage)
		}
		had, devices := maps.Clone(p.Config), maps.Clone(p.Devices)
		if err := f(&p); err != nil {
			return err
		}
		in, err := projectID(ctx, tx.tx, project.Profiles)
		if err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `UPDATE profiles SET description = ?, config = ?, devices = ?
			WHERE project_id = ? AND name = ?`, p.Description, toJSON(orEmpty(p.Config)), toJSON(orEmpty(p.Devices)), in, name)
		limits := limited(had, p.Config)
		if err != nil || !limits && !reconfigured(had, p.Config) && maps.EqualFunc(devices, p.Devices, maps.Equal) {
			return err
		}
		return cmp.Or(checkProfileRules(ctx, tx, in, name), checkUsers(ctx, tx, in, name, limits))
	})
}

// checkUsers is checkRules, and with limits also checkLimits, for the projects whose instances
// have a profile.
func checkUsers(ctx context.Context, tx *Tx, in int64, profile string, limits bool) error {
	var projects []int64
	err := each(ctx, tx.tx, `SELECT DISTINCT i.project_id FROM instances i JOIN instances_profiles o ON o.instance_id = i.id
		JOIN profiles p ON p.id = o.profile_id WHERE p.project_id = ? AND p.name = ?`, []any{in, profile},
		func(rows *sql.Rows) error {
			var id int64
			err := rows.Scan(&id)
			projects = append(projects, id)
			return err
		})
	for _, id := range projects {
		if limits {
			err = errors.Join(err, checkLimits(ctx, tx, id))
		}
		err = errors.Join(err, checkRules(ctx, tx, id, everyInstance))
	}
	return err
}

// RenameProfile changes a name, in the images that use it as well.
// Errors: NotFound, Conflict.
func (d *DB) RenameProfile(ctx context.Context, from, to string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Profiles = true
		in, err := projectID(ctx, tx.tx, project.Profiles)
		if err != nil {
			return err
		}
		r, err := tx.tx.ExecContext(ctx, `UPDATE profiles SET name = ? WHERE project_id = ? AND name = ?`, to, in, from)
		if err != nil {
			return conflict(err, "Profile", to)
		}
		if err := changed(r, err, "Profile", from); err != nil {
			return err
		}
		return replaceProfile(ctx, tx, in, from, to)
	})
}

// DeleteProfile removes a row, and the profile from images and snapshots. Errors:
// NotFound, Conflict when an instance has it.
func (d *DB) DeleteProfile(ctx context.Context, name string) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		tx.changes.Profiles = true
		in, err := projectID(ctx, tx.tx, project.Profiles)
		if err != nil {
			return err
		}
		var used []string
		err = each(ctx, tx.tx, `SELECT DISTINCT i.name, j.name FROM instances_profiles o
			JOIN instances i ON i.id = o.instance_id JOIN projects j ON j.id = i.project_id
			JOIN profiles p ON p.id = o.profile_id WHERE p.project_id = ? AND p.name = ? ORDER BY i.name, j.name`,
			[]any{in, name}, func(rows *sql.Rows) error {
				var i Name
				err := rows.Scan(&i.Name, &i.Project)
				used = append(used, i.String())
				return err
			})
		if err != nil {
			return err
		}
		if len(used) > 0 {
			return kiln.Errorf(kiln.Conflict, "Profile '%s' is in use by: %s; take it from them first: kiln profile "+
				"remove <instance> %s", name, strings.Join(used, ", "), name)
		}
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM profiles WHERE project_id = ? AND name = ?`, in, name)
		if err := changed(r, err, "Profile", name); err != nil {
			return err
		}
		return replaceProfile(ctx, tx, in, name, "")
	})
}

// users are the rows that use profiles, in the order in which they are laid over each
// other.
type users struct {
	table, owner string
	lasting      bool // none of the profiles can be deleted meanwhile
}

var (
	instancesProfiles = users{"instances_profiles", "instance_id", true}
	snapshotsProfiles = users{"instance_snapshots_profiles", "snapshot_id", false}
)

// profilesOf gives the names of the profiles that each owner uses.
func profilesOf(ctx context.Context, q queryer, u users, where string, args ...any) (map[int64][]string, error) {
	m := map[int64][]string{}
	err := each(ctx, q, `SELECT o.`+u.owner+`, coalesce(p.name, '') FROM `+u.table+` o LEFT JOIN profiles p ON p.id = o.profile_id `+where+
		` ORDER BY o.`+u.owner+`, o.position`, args, func(rows *sql.Rows) error {
		var id int64
		var name string
		err := rows.Scan(&id, noted{"name", &name, new(string)})
		m[id] = append(m[id], name)
		return err
	})
	return m, err
}

// setProfiles replaces the profiles that an owner uses. The error is Invalid for one
// that isn't there; a snapshot is taken without it.
func setProfiles(ctx context.Context, tx *Tx, u users, id int64, names []string) error {
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM `+u.table+` WHERE `+u.owner+` = ?`, id); err != nil {
		return err
	}
	in, err := projectID(ctx, tx.tx, project.Profiles)
	if err != nil {
		return err
	}
	for position, name := range names {
		r, err := tx.tx.ExecContext(ctx, `INSERT INTO `+u.table+` (`+u.owner+`, position, profile_id)
			SELECT ?, ?, id FROM profiles WHERE project_id = ? AND name = ?`, id, position, in, name)
		if err := changed(r, err, "Profile", name); errors.Is(err, kiln.NotFound) && u.lasting {
			return kiln.Errorf(kiln.NotFound, "Profile '%s' doesn't exist; see: kiln profile list", name)
		} else if err != nil && !errors.Is(err, kiln.NotFound) {
			return err
		}
	}
	return nil
}

// replaceProfile puts another name, or none, into the lists of the images that a project's
// profiles are for: its own, and those of projects that use its profiles.
func replaceProfile(ctx context.Context, tx *Tx, in int64, from, to string) error {
	users, err := profileUsers(ctx, tx.tx, in)
	if err != nil {
		return err
	}
	lists := map[int64][]string{}
	err = each(ctx, tx.tx, `SELECT id, project_id, profiles FROM images`, nil, func(rows *sql.Rows) error {
		var id, of int64
		var list []string
		err := rows.Scan(&id, &of, noted{"profiles", jsonColumn{&list}, new(string)}) // a damaged one stays as it is
		if users[of] && slices.Contains(list, from) {
			lists[id] = list
		}
		return err
	})
	if err != nil {
		return err
	}
	for id, list := range lists {
		at := slices.Index(list, from)
		if to == "" {
			list = slices.Delete(list, at, at+1)
		} else {
			list[at] = to
		}
		if _, err := tx.tx.ExecContext(ctx, `UPDATE images SET profiles = ? WHERE id = ?`, toJSON(list), id); err != nil {
			return err
		}
	}
	return nil
}

// profileUsers are the projects whose images name the profiles of one.
func profileUsers(ctx context.Context, q queryer, of int64) (map[int64]bool, error) {
	users := map[int64]bool{of: true}
	if of != defaultID { // only the default one's are others', too
		return users, nil
	}
	err := each(ctx, q, `SELECT id, name, config FROM projects`, nil, func(rows *sql.Rows) error {
		var id int64
		var name string
		var config map[string]string
		err := rows.Scan(&id, &name, noted{"config", jsonColumn{&config}, new(string)})
		users[id] = users[id] || project.New(name, config).Profiles == project.Default
		return err
	})
	return users, err
}
