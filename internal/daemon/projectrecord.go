package daemon

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// projectsFile has what the rows of projects say.
const projectsFile = "projects.json"

// projectsRecord is its format.
type projectsRecord struct {
	Version  int          `json:"version"`
	Projects []db.Project `json:"projects"`
}

// saveProjects writes the record of projects if it isn't as the rows say. Where a row is
// damaged it stays, as the better copy.
func (d *Daemon) saveProjects(ctx context.Context) error {
	rows, err := d.db.Projects(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.Damage != "" {
			return nil
		}
	}
	return saveRows(filepath.Join(d.cfg.Dir, projectsFile), projectsRecord{rowsVersion, rows})
}

// recordedProjects reads it. Errors: fs.ErrNotExist, Integrity, TooLarge, Unsupported.
func recordedProjects(dir string) ([]db.Project, error) {
	var f projectsRecord
	err := readRows(filepath.Join(dir, projectsFile), &f, &f.Version)
	return f.Projects, err
}

// recoverProjects makes the rows of projects that have none. One that is there is changed only
// if it counts less than records; else it is told that it is of another age.
func (v *recoverer) recoverProjects(ctx context.Context, dir string) error {
	list, err := recordedProjects(dir)
	if err != nil {
		if v.overrule {
			v.r.Gone = append(v.r.Gone, "the configuration of projects, which may be older, or as new projects have it: "+
				"restricted, limits; compare: kiln project list, kiln project show NAME")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			v.remark("what was known of projects is lost: %v", err)
		}
		return nil
	}
	recorded := map[string]bool{}
	for _, p := range list {
		recorded[p.Name] = true
		if err := v.recoverProject(ctx, p); err != nil {
			return err
		}
	}
	rows, err := v.db.Projects(ctx)
	for _, row := range rows {
		if !recorded[row.Name] && v.overrule {
			v.remark("project %q is in the copy of the database and was renamed or deleted since; if nothing is in it: kiln "+
				"project delete %s", row.Name, row.Name)
		}
	}
	return err
}

func (v *recoverer) recoverProject(ctx context.Context, p db.Project) error {
	if err := kiln.CheckProjectName(p.Name); err != nil {
		v.remark("project %q can't be brought back: %v", p.Name, err)
		return nil
	}
	if err := checkProject(p); err != nil { // as a newer kiln may have taken; what it forbids counts all the same
		v.remark("project %q: %v", p.Name, err)
	}
	p.Damage = ""
	has, err := v.db.Project(ctx, p.Name)
	if errors.Is(err, kiln.NotFound) {
		if err := v.db.CreateProject(ctx, p, projectProfile(p.Name)); err != nil {
			return err
		}
		v.r.Projects = append(v.r.Projects, p.Name)
		return nil
	}
	if err != nil {
		return err
	}
	changed := changedKeys(has, p)
	switch {
	case has.Damage != "":
		v.remark("project %q is damaged: %s", p.Name, has.Damage)
	case len(changed) == 0:
	case !v.overrule:
		v.remark("project %q has another %s in the database than it had last, by its record; compare: kiln project show %s",
			p.Name, strings.Join(changed, ", "), p.Name)
	default:
		err := v.db.EditProject(ctx, p.Name, func(row *db.Project, _ db.Contents) error { *row = p; return nil })
		if err != nil {
			return err
		}
		v.r.Projects = append(v.r.Projects, p.Name+": "+strings.Join(changed, ", "))
	}
	return nil
}

// changedKeys names what isn't the same of two projects.
func changedKeys(a, b db.Project) []string {
	keys := keysChanged(a.Config, b.Config)
	if a.Description != b.Description {
		keys = append(keys, "description")
	}
	return keys
}
