package daemon

import (
	"context"
	"errors"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// keepForgotten warns of what the database doesn't know: the files of instances, snapshots and
// images that this start has put away, since no row names them, and what only records name. A
// database that is older than its files would have its rows written over newer records, so these
// are kept first, as RestoreDatabase keeps them. It comes before any record is written.
func (d *Daemon) keepForgotten(ctx context.Context) {
	records, err := d.forgottenRecords(ctx)
	images, ierr := d.forgottenImages()
	lost, lerr := d.pool.Lost()
	if err := errors.Join(err, ierr, lerr); err != nil {
		d.cfg.Log.Warn("look for what the database doesn't know", "err", err)
	}
	names, fresh, bare := append(records, images...), len(records)+len(images) > 0, 0
	if lost = slices.DeleteFunc(lost, isOfImages); slices.ContainsFunc(lost, d.putAwayNow) {
		about := aboutLost(d.cfg.Dir)
		for _, l := range lost {
			if about[l.Name] == "" {
				bare++
				continue
			}
			names = append(names, about[l.Name])
			fresh = fresh || d.putAwayNow(l)
		}
	}
	if fresh {
		if err := d.db.WithReserve(func() error { return setRecordsAside(d.cfg.Dir) }); err != nil {
			d.cfg.Log.Error("keep what is known of what isn't in the database", "err", err)
		}
	}
	if len(names)+bare == 0 {
		d.settleForgotten()
		return
	}
	err = forgottenError(names, bare)
	d.cfg.Log.Warn("the database doesn't know all that is there", "err", err)
	d.outcome(filesForgotten, db.Subject{}, err)
}

// forgottenError says what isn't known: things that have names, and how many that have none.
func forgottenError(names []string, bare int) error {
	slices.Sort(names)
	what := some(slices.Compact(names))
	switch {
	case len(names) == 0:
		what = "some files of instances or snapshots, of which no record tells"
	case bare > 0:
		what += ", and some files of which no record tells"
	}
	return kiln.Errorf(kiln.Integrity, "the database doesn't know %s; files are kept for a week, see: kiln admin lost; "+
		"to have all of it back stop the daemon, then: kiln admin recover; nothing is missing if that was being made or "+
		"deleted when a daemon died", what)
}

// settleForgotten ends the warning when nothing is kept any more of what it told. Recover ends it
// as well.
func (d *Daemon) settleForgotten() {
	lost, err := d.pool.Lost()
	if err == nil && len(slices.DeleteFunc(lost, isOfImages))+len(keptRecords(d.cfg.Dir)) == 0 {
		d.outcome(filesForgotten, db.Subject{}, nil)
	}
}

// isOfImages reports whether something that is lost can be made again, or was put away by
// somebody who has seen it.
func isOfImages(l volume.Lost) bool { return l.Layer || l.Tree || l.Kept }

// putAwayNow reports whether this start has put something away.
func (d *Daemon) putAwayNow(l volume.Lost) bool { return !l.At.Before(d.began) }

// forgottenRecords names the projects, networks and profiles that have records and no rows.
// Records that can't be read name nothing.
func (d *Daemon) forgottenRecords(ctx context.Context) ([]string, error) {
	ctx = project.InAll(ctx)
	projects, perr := d.db.Projects(ctx)
	networks, nerr := d.db.Networks(ctx)
	profiles, ferr := d.db.Profiles(ctx)
	if err := errors.Join(perr, nerr, ferr); err != nil {
		return nil, err
	}
	var names []string
	has := map[string]bool{}
	for _, p := range projects {
		has["project "+p.Name] = true
	}
	for _, n := range networks {
		has["network "+n.Name] = true
	}
	for _, p := range profiles {
		has["profile "+calledIn(p.Project, p.Name)] = true
	}
	add := func(name string) {
		if !has[name] {
			names = append(names, name)
		}
	}
	if list, err := recordedProjects(d.cfg.Dir); err == nil {
		for _, p := range list {
			add("project " + p.Name)
		}
	}
	if list, err := recordedNetworks(d.cfg.Dir); err == nil {
		for _, n := range list {
			add("network " + n.Name)
		}
	}
	if list, err := recordedProfiles(d.cfg.Dir); err == nil {
		for _, p := range list {
			add("profile " + calledIn(p.Project, p.Name))
		}
	}
	return names, nil
}

// forgottenImages names the images that have records and files that this start has put away.
func (d *Daemon) forgottenImages() ([]string, error) {
	if len(d.lostNow) == 0 {
		return nil, nil
	}
	records, err := d.Images.Records()
	var names []string
	for _, i := range records {
		r, err := d.Images.Record(i)
		if err == nil && slices.ContainsFunc(r.Image.Files, func(f kiln.File) bool {
			return slices.Contains(d.lostNow, f.Hash)
		}) {
			names = append(names, "image "+i.Fingerprint.Short())
		}
	}
	return names, err
}
