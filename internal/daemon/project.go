package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Project is a project with what is in it.
type Project struct {
	db.Project
	db.Contents
	Volumes []string // storage volumes, by name
}

// features are the kinds of things that a project keeps for itself, unless it shares the
// default project's, with what a new project says. Those that no project but the default
// one can keep yet are fixed.
var features = map[string]struct {
	value string
	fixed string // why it can't be true; "": it can
}{
	"features.images":          {value: "true"},
	"features.profiles":        {value: "true"},
	"features.networks":        {"false", "networks are the default project's, and all projects use them"},
	"features.networks.zones":  {"false", "this version of kiln has no network zones"},
	"features.storage.volumes": {value: "true"},
	"features.storage.buckets": {"false", "this version of kiln has no storage buckets"},
}

// Projects gives every project, by name.
func (d *Daemon) Projects(ctx context.Context) ([]Project, error) {
	rows, err := d.db.Projects(ctx)
	if err != nil {
		return nil, err
	}
	has, err := d.db.Contents(ctx)
	list := make([]Project, 0, len(rows))
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		p, err := d.withContents(r, has[r.Name])
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// Project gives one project. The error is NotFound.
func (d *Daemon) Project(ctx context.Context, name string) (Project, error) {
	r, err := d.db.Project(ctx, name)
	if err != nil {
		return Project{}, err
	}
	has, err := d.db.Contents(ctx)
	if err != nil {
		return Project{}, err
	}
	return d.withContents(r, has[name])
}

// withContents completes what a project says by what it means.
func (d *Daemon) withContents(r db.Project, has db.Contents) (Project, error) {
	volumes, err := d.pool.CustomNames(r.Name)
	r = shownProject(r)
	scope := project.New(r.Name, r.Config)
	if scope.Profiles != r.Name {
		has.Profiles = nil // the one that it began with is of no use
	}
	if scope.Volumes != r.Name {
		volumes = nil // as they can be after the database of another day was brought back
	}
	return Project{r, has, volumes}, err
}

// shownProject is a project with what is true of the default one.
func shownProject(r db.Project) db.Project {
	if r.Name == project.Default {
		r.Config = maps.Clone(r.Config)
		if r.Config == nil {
			r.Config = map[string]string{}
		}
		for _, key := range []string{"features.images", "features.profiles", "features.networks",
			"features.storage.volumes"} {
			r.Config[key] = "true"
		}
	}
	return r
}

// newProject completes the configuration of a project that is to be made.
func newProject(config map[string]string) map[string]string {
	out := withoutEmpty(config)
	if out == nil {
		out = map[string]string{}
	}
	for _, key := range []string{"features.images", "features.profiles", "features.storage.volumes"} {
		if out[key] == "" {
			out[key] = features[key].value
		}
	}
	return out
}

// projectProfile is the profile that a project begins with.
func projectProfile(name string) db.Profile {
	return firstProfile(fmt.Sprintf("Default kiln profile for project %s", name))
}

// CreateProject makes a project with a default profile.
// Errors: Invalid, Unsupported, Conflict.
func (d *Daemon) CreateProject(ctx context.Context, p db.Project) error {
	audit.About(ctx, "", "/1.0/projects/"+p.Name)
	audit.Note(ctx, "keys", slices.Sorted(maps.Keys(p.Config)))
	p.Config = newProject(p.Config)
	if err := cmp.Or(kiln.CheckProjectName(p.Name), checkProject(p)); err != nil {
		return err
	}
	if err := d.db.CreateProject(ctx, p, projectProfile(p.Name)); err != nil {
		return err
	}
	d.tellProject(ctx, "created", p.Name, nil)
	return nil
}

// UpdateProject replaces a project's description and configuration by what change makes of
// it; nobody else changes it meanwhile. Features change only while the project is empty.
// Errors: Invalid, NotFound, Unsupported, Conflict, and change's.
func (d *Daemon) UpdateProject(ctx context.Context, name string, change func(db.Project) (db.Project, error)) error {
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	volumes, err := d.pool.CustomNames(name)
	if err != nil {
		return err
	}
	err = d.db.EditProject(ctx, name, func(p *db.Project, has db.Contents) error {
		next, err := change(shownProject(*p))
		if err != nil {
			return err
		}
		next.Name, next.Config = name, withoutEmpty(next.Config)
		if name == project.Default { // says what it can't be without
			for key := range features {
				if v := next.Config[key]; v != "" && !kiln.IsTrue(v) {
					return kiln.Errorf(kiln.Invalid, "%s can't be %q: the default project keeps what others share", key, v)
				}
				delete(next.Config, key)
			}
		}
		if err := checkProject(next); err != nil {
			return err
		}
		if was := project.New(name, p.Config); was != project.New(name, next.Config) {
			if was.Volumes != name {
				volumes = nil
			}
			err := emptyProject(name, "features of project %q can't change while it is in use", has, volumes)
			if err != nil {
				return err
			}
		}
		for _, key := range db.CountLimits() {
			if most, err := strconv.Atoi(next.Config[key]); err == nil && most < len(has.Instances) {
				return kiln.Errorf(kiln.Conflict, "%s can't be %d: project %q has %d instances", key, most, name,
					len(has.Instances))
			}
		}
		audit.Note(ctx, "keys", changedKeys(*p, next))
		*p = next
		return nil
	})
	if err == nil {
		d.tellProject(ctx, "updated", name, nil)
	}
	return err
}

// RenameProject gives an empty project another name. Errors: Invalid, NotFound, Conflict.
func (d *Daemon) RenameProject(ctx context.Context, from, to string) error {
	if from == project.Default {
		return kiln.Errorf(kiln.Invalid, "the default project can't be renamed")
	}
	if err := kiln.CheckProjectName(to); err != nil {
		return err
	}
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	volumes, err := d.pool.CustomNames(from)
	if err != nil {
		return err
	}
	err = d.db.RenameProject(ctx, from, to, func(has db.Contents) error {
		return emptyProject(from, "project %q can't be renamed while it is in use", has, volumes)
	})
	if err == nil {
		d.tellProject(ctx, "renamed", to, map[string]any{"old_name": from})
	}
	return err
}

// DeleteProject removes an empty project. Errors: Invalid, NotFound, Conflict.
func (d *Daemon) DeleteProject(ctx context.Context, name string) error {
	if name == project.Default {
		return kiln.Errorf(kiln.Invalid, "the default project can't be deleted")
	}
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	volumes, err := d.pool.CustomNames(name)
	if err != nil {
		return err
	}
	err = d.db.DeleteProject(ctx, name, func(has db.Contents) error {
		return emptyProject(name, "project %q can't be deleted while it is in use", has, volumes)
	})
	if err == nil {
		d.tellProject(ctx, "deleted", name, nil)
	}
	return err
}

func (d *Daemon) tellProject(ctx context.Context, action, name string, details map[string]any) {
	d.tell(project.In(ctx, project.Alone(name)), "project-"+action, "/1.0/projects/"+name, details)
}

// emptyProject refuses what can be done to an empty project only, saying what is in it. Its
// default profile is always there.
func emptyProject(name, refused string, has db.Contents, volumes []string) error {
	has.Profiles = slices.DeleteFunc(slices.Clone(has.Profiles), func(p string) bool { return p == defaultProfile })
	var list []string
	for _, kind := range []struct {
		what  string
		names []string
	}{{"instances", has.Instances}, {"images", shortened(has.Images)}, {"profiles", has.Profiles},
		{"storage volumes", volumes}} {
		if len(kind.names) > 0 {
			list = append(list, kind.what+" "+some(kind.names))
		}
	}
	if len(list) == 0 {
		return nil
	}
	return kiln.Errorf(kiln.Conflict, refused+"; it has %s", name, strings.Join(list, ", "))
}

func shortened(fingerprints []string) []string {
	var list []string
	for _, fp := range fingerprints {
		list = append(list, fp[:min(12, len(fp))])
	}
	return list
}

// some names the first of many.
func some(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// checkProject says what of a project's configuration can't be. Errors: Invalid, Unsupported.
func checkProject(p db.Project) error {
	if err := kiln.CheckDescription(p.Description); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(p.Config)) {
		value := p.Config[key]
		if strings.HasPrefix(key, "user.") {
			continue
		}
		if f, ok := features[key]; ok {
			if err := checkBool(value); err != nil {
				return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
			}
			if kiln.IsTrue(value) && f.fixed != "" {
				return kiln.Errorf(kiln.Unsupported, "%s can't be true: %s", key, f.fixed)
			}
			continue
		}
		if slices.Contains(db.CountLimits(), key) {
			if err := checkNumber(value); err != nil {
				return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
			}
			continue
		}
		if slices.Contains(db.SumLimits(), key) {
			if _, err := db.ParseLimit(key, value); err != nil {
				return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
			}
			continue
		}
		if key == "restricted" || strings.HasPrefix(key, "restricted.") {
			if err := instance.CheckRule(key, value); err != nil {
				return err
			}
			continue
		}
		if strings.HasPrefix(key, "limits.") {
			return kiln.Errorf(kiln.Unsupported, "%s isn't supported by this version of kiln, which would not hold to it; "+
				"projects have %s", key, strings.Join(slices.Concat(db.CountLimits(), db.SumLimits()), ", "))
		}
		return kiln.Errorf(kiln.Invalid, "unknown key %q of a project%s", key, kiln.DidYouMean(key,
			slices.Concat(slices.Collect(maps.Keys(features)), db.CountLimits(), db.SumLimits(), instance.RuleKeys())))
	}
	return nil
}

// Usage is how much of a resource a project has.
type Usage struct {
	Limit int64 // -1: none
	Used  int64
}

// ProjectUsage tells what a project has of each resource that can be limited: instances and
// containers, by number, and what these may have together, as far as they say. The error is
// NotFound.
func (d *Daemon) ProjectUsage(ctx context.Context, name string) (map[string]Usage, error) {
	p, err := d.Project(ctx, name)
	if err != nil {
		return nil, err
	}
	usage := map[string]Usage{}
	for _, key := range db.CountLimits() {
		u := Usage{Limit: -1, Used: int64(len(p.Instances))}
		if most, err := strconv.ParseInt(p.Config[key], 10, 64); err == nil {
			u.Limit = most
		}
		usage[strings.TrimPrefix(key, "limits.")] = u
	}
	ctx, err = d.In(ctx, name)
	if err != nil {
		return nil, err
	}
	instances, err := d.instances.List(ctx)
	for _, key := range db.SumLimits() {
		u := Usage{Limit: -1}
		if most, err := db.ParseLimit(key, p.Config[key]); err == nil {
			u.Limit = most
		}
		for _, i := range instances {
			if n, err := db.ParseLimit(key, i.ExpandedConfig[key]); err == nil && n < math.MaxInt64-u.Used {
				u.Used += n
			}
		}
		usage[strings.TrimPrefix(key, "limits.")] = u
	}
	return usage, err
}
