package db

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// defaultID is the row of the default project, which isn't renamed.
const defaultID = 1

// projectID gives the row of the one project whose things of a kind ctx is about. Errors:
// NotFound, and Internal when ctx is about none, or several.
func projectID(ctx context.Context, q queryer, k project.Kind) (int64, error) {
	name, err := project.One(ctx, k)
	if err != nil || name == project.Default {
		return defaultID, err
	}
	return projectRow(ctx, q, name)
}

func projectRow(ctx context.Context, q queryer, name string) (id int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT id FROM projects WHERE name = ?`, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, noProject(name)
	}
	return id, known(err)
}

func noProject(name string) error {
	return kiln.Errorf(kiln.NotFound, "Project not found: %q; see: kiln project list", name)
}

// within gives the condition that a row is of one of the projects whose things of a kind
// ctx is about, column being the one with the id of its project.
func within(ctx context.Context, k project.Kind, column string) (string, []any, error) {
	names, all, err := project.Names(ctx, k)
	switch {
	case err != nil:
		return "", nil, err
	case all:
		return column + ` IS NOT NULL`, nil, nil
	}
	list, err := json.Marshal(names)
	return column + ` IN (SELECT id FROM projects WHERE name IN (SELECT value FROM json_each(?)))`, []any{string(list)}, err
}

// A Project is a row of projects.
type Project struct {
	Name, Description string
	Config            map[string]string
	Damage            string // what of the row can't be read; "": nothing
}

const projectColumns = `name, description, config`

func (p *Project) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(noted{"name", &p.Name, &p.Damage},
		noted{"description", &p.Description, &p.Damage},
		noted{"config", jsonColumn{&p.Config}, &p.Damage})
}

// Projects gives every project, by name.
func (d *DB) Projects(ctx context.Context) ([]Project, error) {
	var list []Project
	err := each(ctx, d.read, `SELECT `+projectColumns+` FROM projects ORDER BY name`, nil, func(rows *sql.Rows) error {
		var p Project
		err := p.scan(rows)
		list = append(list, p)
		return err
	})
	return list, err
}

// Project gives one project. The error is NotFound.
func (d *DB) Project(ctx context.Context, name string) (Project, error) {
	return getProject(ctx, d.read, name)
}

func getProject(ctx context.Context, q queryer, name string) (Project, error) {
	var p Project
	err := p.scan(q.QueryRowContext(ctx, `SELECT `+projectColumns+` FROM projects WHERE name = ?`, name))
	if errors.Is(err, sql.ErrNoRows) {
		return p, noProject(name)
	}
	return p, known(err)
}

// Scope gives a project with where its things are. The error is NotFound.
func (d *DB) Scope(ctx context.Context, name string) (project.Project, error) {
	if name == project.Default {
		return project.Alone(name), nil
	}
	p, err := d.Project(ctx, name)
	return project.New(name, p.Config), err
}

// Scopes gives every project with where its things are, by name.
func (d *DB) Scopes(ctx context.Context) (map[string]project.Project, error) {
	list, err := d.Projects(ctx)
	all := make(map[string]project.Project, len(list))
	for _, p := range list {
		all[p.Name] = project.New(p.Name, p.Config)
	}
	return all, err
}

// CreateProject adds a project with the profiles that it begins with. The error is Conflict
// when the name is taken.
func (d *DB) CreateProject(ctx context.Context, p Project, profiles ...Profile) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Projects = true
		var id int64
		err := tx.tx.QueryRowContext(ctx, `INSERT INTO projects (`+projectColumns+`) VALUES (?, ?, ?) RETURNING id`,
			p.Name, p.Description, toJSON(orEmpty(p.Config))).Scan(&id)
		if err != nil {
			return conflict(err, "Project", p.Name)
		}
		for _, one := range profiles {
			if err := createProfile(ctx, tx, id, one); err != nil {
				return err
			}
		}
		return nil
	})
}

// EditProject reads a row, lets f change all but its name, and writes it back, in one
// transaction. f is told what is in the project. Errors: NotFound, Integrity when the row
// is damaged, those of f.
func (d *DB) EditProject(ctx context.Context, name string, f func(*Project, Contents) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Projects = true
		p, err := getProject(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		if p.Damage != "" { // what can't be read would be overwritten
			return kiln.Errorf(kiln.Integrity, "project %q can't be changed: %s; bring a copy of the database back: "+
				"kiln admin restore-database", name, p.Damage)
		}
		has, err := contentsOf(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		had := maps.Clone(p.Config)
		if err := f(&p, has); err != nil {
			return err
		}
		var id int64
		err = tx.tx.QueryRowContext(ctx, `UPDATE projects SET description = ?, config = ? WHERE name = ? RETURNING id`,
			p.Description, toJSON(orEmpty(p.Config)), name).Scan(&id)
		if err != nil {
			return err
		}
		if limited(had, p.Config) {
			err = checkLimits(ctx, tx, id)
		}
		if err == nil && ruled(had, p.Config) {
			err = cmp.Or(checkRules(ctx, tx, id, everyInstance), checkProfileRules(ctx, tx, id))
		}
		// It is what there is already that stands in the way.
		if errors.Is(err, kiln.Denied) || errors.Is(err, kiln.Invalid) {
			err = kiln.Errorf(kiln.Conflict, "%w", err)
		}
		return err
	})
}

// RenameProject changes the name of a project that f says may be renamed, being told what is
// in it, also where certificates say it. Errors: NotFound, Conflict, those of f.
func (d *DB) RenameProject(ctx context.Context, from, to string, f func(Contents) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.changes.Projects, tx.changes.Profiles = true, true
		has, err := contentsOf(ctx, tx.tx, from)
		if err != nil {
			return err
		}
		if err := f(has); err != nil {
			return err
		}
		if _, err := tx.tx.ExecContext(ctx, `UPDATE projects SET name = ? WHERE name = ?`, to, from); err != nil {
			return conflict(err, "Project", to)
		}
		return replaceInCertificates(ctx, tx, from, to)
	})
}

// DeleteProject removes a project that f says may be deleted, being told what is in it, with
// its profiles and the history of its aliases. Certificates don't name it any more.
// Errors: NotFound, those of f.
func (d *DB) DeleteProject(ctx context.Context, name string, f func(Contents) error) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		tx.changes.Projects, tx.changes.Profiles = true, true
		id, err := projectRow(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		has, err := contentsOf(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		if err := f(has); err != nil {
			return err
		}
		for _, table := range []string{"profiles", "alias_history"} {
			if _, err := tx.tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE project_id = ?`, id); err != nil {
				return err
			}
		}
		if _, err := tx.tx.ExecContext(ctx, `DELETE FROM projects WHERE id = ?`, id); err != nil {
			return err
		}
		return replaceInCertificates(ctx, tx, name, "")
	})
}

// replaceInCertificates puts another name, or none, into the lists of what restricted
// clients may use.
func replaceInCertificates(ctx context.Context, tx *Tx, from, to string) error {
	lists := map[string][]string{}
	err := each(ctx, tx.tx, `SELECT fingerprint, projects FROM certificates`, nil, func(rows *sql.Rows) error {
		var fingerprint string
		var list []string
		var damage string
		err := rows.Scan(noted{"fingerprint", &fingerprint, &damage}, noted{"projects", jsonColumn{&list}, &damage})
		if damage == "" && slices.Contains(list, from) {
			lists[fingerprint] = list
		}
		return err
	})
	if err != nil {
		return err
	}
	for fingerprint, list := range lists {
		list = slices.DeleteFunc(list, func(name string) bool { return name == from || name == to })
		if to != "" {
			list = append(list, to)
		}
		if _, err := tx.tx.ExecContext(ctx, `UPDATE certificates SET projects = ? WHERE fingerprint = ?`,
			toJSON(orNone(list)), fingerprint); err != nil {
			return err
		}
	}
	return nil
}

// Contents are the things that a project keeps, by name, images by fingerprint.
type Contents struct {
	Instances, Images, Profiles []string
}

// contentsOf gives what is in a project. The error is NotFound.
func contentsOf(ctx context.Context, q queryer, name string) (Contents, error) {
	var c Contents
	id, err := projectRow(ctx, q, name)
	if err != nil {
		return c, err
	}
	for _, k := range []struct {
		query string
		to    *[]string
	}{
		{`SELECT name FROM instances WHERE project_id = ? ORDER BY name`, &c.Instances},
		{`SELECT fingerprint FROM images WHERE project_id = ? ORDER BY id`, &c.Images},
		{`SELECT name FROM profiles WHERE project_id = ? ORDER BY name`, &c.Profiles},
	} {
		if err := each(ctx, q, k.query, []any{id}, func(rows *sql.Rows) error {
			var word string
			err := rows.Scan(noted{"name", &word, new(string)})
			*k.to = append(*k.to, word)
			return err
		}); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Contents gives what is in each project, by its name.
func (d *DB) Contents(ctx context.Context) (map[string]Contents, error) {
	all := map[string]Contents{}
	err := d.view(ctx, func(v queryer) error {
		for query, add := range map[string]func(*Contents, string){
			`SELECT p.name, x.name FROM instances x JOIN projects p ON p.id = x.project_id ORDER BY x.name`: func(c *Contents,
				s string) {
				c.Instances = append(c.Instances, s)
			},
			`SELECT p.name, x.fingerprint FROM images x JOIN projects p ON p.id = x.project_id ORDER BY x.id`: func(c *Contents,
				s string) {
				c.Images = append(c.Images, s)
			},
			`SELECT p.name, x.name FROM profiles x JOIN projects p ON p.id = x.project_id ORDER BY x.name`: func(c *Contents,
				s string) {
				c.Profiles = append(c.Profiles, s)
			},
		} {
			if err := each(ctx, v, query, nil, func(rows *sql.Rows) error {
				var in, word string
				err := rows.Scan(noted{"name", &in, new(string)}, noted{"name", &word, new(string)})
				c := all[in]
				add(&c, word)
				all[in] = c
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}
