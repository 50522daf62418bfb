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
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Project is a project with what is in it.
type Project struct {
	db.Project
	db.Contents
	Volumes []string // storage volumes, by name
}

// ProjectKeys are the configuration keys of a project.
func ProjectKeys() []option.Key {
	yes, count := option.Bool(), option.Number("number")
	sum := func(key, name string) option.Type {
		return option.Type{Name: name, Check: func(v string) error { _, err := db.ParseLimit(key, v); return err }}
	}
	keys := []option.Key{
		{Name: "features.images", Type: yes.Or("true"), Help: "it has its own images; false: those of the default project"},
		{Name: "features.networks", Type: yes.Or("false"),
			Help: "always false: all projects use the networks of the default one"},
		{Name: "features.networks.zones", Type: yes.Or("false"), Help: "always false: there are no network zones"},
		{Name: "features.profiles", Type: yes.Or("true"),
			Help: "it has its own profiles; false: those of the default project"},
		{Name: "features.storage.buckets", Type: yes.Or("false"), Help: "always false: there are no storage buckets"},
		{Name: "features.storage.volumes", Type: yes.Or("true"),
			Help: "it has its own storage volumes; false: those of the default project"},
		{Name: "limits.containers", Type: count, Help: "the most instances that it may have"},
		{Name: "limits.cpu", Type: sum("limits.cpu", "number"),
			Help: "the most processors that its instances may have together"},
		{Name: "limits.instances", Type: count, Help: "the most instances that it may have"},
		{Name: "limits.memory", Type: sum("limits.memory", "size"),
			Help: "the most memory that its instances may have together"},
		{Name: "limits.processes", Type: sum("limits.processes", "number"),
			Help: "the most processes that its instances may have together"},
	}
	return append(append(keys, instance.RuleKeys()...),
		option.Key{Name: "user.", Type: option.Text("text"), Help: "your own; kiln doesn't read it"})
}

// fixedFeatures are what no project but the default one can keep for itself, with the reason.
var fixedFeatures = map[string]string{
	"features.networks":        "networks are the default project's, and all projects use them",
	"features.networks.zones":  "this version of kiln has no network zones",
	"features.storage.buckets": "this version of kiln has no storage buckets",
}

// rulesKey switches the rules of a project on, and begins their names.
const rulesKey = "restricted"

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
			out[key] = "true"
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
			for _, key := range option.Names(ProjectKeys()) {
				if !strings.HasPrefix(key, "features.") {
					continue
				}
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
	known := ProjectKeys()
	for _, key := range slices.Sorted(maps.Keys(p.Config)) {
		value := p.Config[key]
		k, ok := option.Find(known, key)
		switch {
		case key == rulesKey || strings.HasPrefix(key, rulesKey+"."):
			if err := instance.CheckRule(key, value); err != nil {
				return err
			}
		case !ok && strings.HasPrefix(key, "limits."):
			return kiln.Errorf(kiln.Unsupported, "%s isn't supported by this version of kiln, which would not hold to it; "+
				"projects have %s", key, strings.Join(slices.Concat(db.CountLimits(), db.SumLimits()), ", "))
		case !ok:
			return kiln.Errorf(kiln.Invalid, "unknown key %q of a project%s", key, kiln.DidYouMean(key, option.Names(known)))
		default:
			if err := k.Check(value); err != nil {
				return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
			}
			if why := fixedFeatures[key]; why != "" && kiln.IsTrue(value) {
				return kiln.Errorf(kiln.Unsupported, "%s can't be true: %s", key, why)
			}
		}
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
