package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// recoverInstances makes rows of the volumes that none names, or whose rows are older
// than their records, and attaches their snapshots.
func (v *recoverer) recoverInstances(ctx context.Context) error {
	found, err := v.findLost()
	if err != nil {
		return err
	}
	mended, err := v.pool.MendRecords()
	if err != nil {
		return err
	}
	volumes, err := v.pool.List()
	if err != nil {
		return err
	}
	records := map[string]instance.Record{}
	v.unrecorded = map[string]error{}
	for _, uuid := range volumes {
		r, err := v.recordOf(uuid)
		if err == nil {
			records[uuid] = r
		} else {
			v.unrecorded[uuid] = err
		}
	}
	v.tellMended(mended)
	// What was in use keeps its name where some have the same, then what was put away last, then
	// the oldest.
	slices.SortStableFunc(volumes, func(a, b string) int {
		was := func(uuid string) bool { return !found[uuid].IsZero() }
		switch {
		case was(a) != was(b) && was(a):
			return 1
		case was(a) != was(b):
			return -1
		}
		return cmp.Or(found[b].Compare(found[a]),
			records[a].Instance.CreatedAt.Compare(records[b].Instance.CreatedAt))
	})
	rows, err := v.rowsToKeep(ctx, records)
	if err != nil {
		return err
	}
	snapshots, err := v.db.AllSnapshotFiles(ctx)
	if err != nil {
		return err
	}
	v.attached = map[string]bool{}
	for _, s := range snapshots {
		v.attached[s.Files] = true
		if _, err := v.pool.GetSnapshot(s.Files); err != nil {
			v.remark("snapshot %s/%s is in the database, but can't be used: %v; if nothing brings its files back: "+
				"kiln delete %s/%s%s", s.Instance, s.Name, err, s.Instance, s.Name, flagOf(s.Project))
		}
	}
	if err := v.recoverProfiles(ctx, volumes, records, rows); err != nil {
		return err
	}
	for _, uuid := range volumes {
		if err := v.recoverInstance(ctx, uuid, records, rows); err != nil {
			return err
		}
	}
	return v.keepSnapshots()
}

// tellMended says which records of the pool were made again.
func (v *recoverer) tellMended(list []volume.Mended) {
	about := aboutLost(v.cfg.Dir)
	for _, m := range list {
		what := cmp.Or(about[m.Name], "files "+m.Name)
		v.remark("the record of what %s stands on was lost or damaged; it was made again", what)
		if len(m.Lacks) > 0 {
			v.remark("%s stands on layers that are lost, and can't be used unless something brings these back: %s", what,
				strings.Join(m.Lacks, ", "))
		}
	}
}

// findLost brings back what was put away. It says of volumes when that was.
func (v *recoverer) findLost() (map[string]time.Time, error) {
	found := map[string]time.Time{}
	lost, err := v.pool.Lost()
	for _, l := range slices.Backward(lost) { // of several the newest
		err := v.pool.Find(l)
		if (l.Tree || l.Layer) && errors.Is(err, kiln.Conflict) {
			continue // a better one was made
		}
		if err != nil {
			v.left("%s: %v", l.Entry, err)
			continue
		}
		if !l.Snapshot && !l.Tree && !l.Layer {
			found[l.Name] = l.At
		}
	}
	return found, err
}

// rowsToKeep gives the rows that stay as they are, by UUID, and removes those that their
// records overrule. One without files gives its name up to what has files and a record.
func (v *recoverer) rowsToKeep(ctx context.Context, records map[string]instance.Record) (map[string]db.Instance,
	error) {
	rows, err := v.db.Instances(ctx)
	if err != nil {
		return nil, err
	}
	snapshots, err := v.db.AllSnapshotFiles(ctx)
	if err != nil {
		return nil, err
	}
	// A rebuild or a refresh after the copy of the database gave the files another name; that of
	// the backups stayed.
	type identity struct {
		backups string
		created int64
	}
	of := func(i db.Instance) identity {
		return identity{instance.BackupsOf(i.Config), i.CreatedAt.UnixNano()}
	}
	has := map[string]bool{}
	for _, row := range rows {
		has[row.Config[instance.UUIDKey]] = true
	}
	recorded, claimed := map[identity]bool{}, map[db.Name]bool{}
	for uuid, r := range records {
		recorded[of(r.Instance)] = true
		if _, err := v.pool.Get(uuid); err == nil && (v.overrule || !has[uuid]) {
			claimed[db.Name{Project: r.Instance.Project, Name: r.Instance.Name}] = true
		}
	}
	leased, err := v.leased(ctx)
	if err != nil {
		return nil, err
	}
	keep := map[string]db.Instance{}
	for _, row := range rows {
		in := project.In(ctx, project.Alone(row.Project))
		uuid := row.Config[instance.UUIDKey]
		_, err := v.pool.Get(uuid)
		_, ok := records[uuid]
		if v.overrule && ok || recorded[of(row)] && (v.overrule || errors.Is(err, kiln.NotFound)) {
			id := instance.BackupsOf(row.Config)
			v.leases[id] = leased[db.Name{Project: row.Project, Name: row.Name}]
			if err := v.db.DeleteInstance(in, row.Name); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case errors.Is(err, kiln.NotFound):
			if claimed[db.Name{Project: row.Project, Name: row.Name}] {
				if row.Name, err = v.giveWay(in, row.Name, uuid); err != nil {
					return nil, err
				}
			}
			if n := v.usable(snapshots, row); n > 0 {
				v.remark("instance %q is in the database, but has no files; %d of its snapshots have theirs, and go with it "+
					"when it is deleted: kiln info %s%s", row.Name, n, row.Name, flagOf(row.Project))
				break
			}
			v.remark("instance %q is in the database, but has no files; if it was deleted since: kiln delete %s%s",
				row.Name, row.Name, flagOf(row.Project))
		case err != nil:
			v.remark("instance %q is in the database, but can't be used: %v; if nothing brings that back: kiln delete %s%s",
				row.Name, err, row.Name, flagOf(row.Project))
		}
		keep[uuid] = row
	}
	return keep, nil
}

// A leaseOn is a lease with its network.
type leaseOn struct {
	db.Lease
	network string
}

// leased gives the leases of instances.
func (v *recoverer) leased(ctx context.Context) (map[db.Name][]leaseOn, error) {
	by := map[db.Name][]leaseOn{}
	networks, err := v.db.Networks(ctx)
	for _, n := range networks {
		list, lerr := v.db.Leases(ctx, n.Name)
		err = errors.Join(err, lerr)
		for _, l := range list {
			of := db.Name{Project: l.Project, Name: l.Instance}
			by[of] = append(by[of], leaseOn{l, n.Name})
		}
	}
	return by, err
}

// lease gives an instance whose row was made again the leases that it had, as far as nobody has
// their addresses since. It gets others at its next start where there are none.
func (v *recoverer) lease(ctx context.Context, row db.Instance) error {
	for _, had := range v.leases[instance.BackupsOf(row.Config)] {
		l := had.Lease
		l.Instance = row.Name
		_, err := v.db.SetLease(ctx, had.network, l, func(others []db.Lease, l *db.Lease) error {
			for _, o := range others {
				if o.MAC == had.MAC || had.IPv4.IsValid() && o.IPv4 == had.IPv4 || had.IPv6.IsValid() && o.IPv6 == had.IPv6 {
					return kiln.Errorf(kiln.Conflict, "instance %q has that address", o.Instance)
				}
			}
			l.IPv4, l.IPv6 = had.IPv4, had.IPv6
			return nil
		})
		if err != nil && !errors.Is(err, kiln.Conflict) {
			return err
		}
	}
	return nil
}

// giveWay gives the instance of a volume that isn't there another name.
func (v *recoverer) giveWay(ctx context.Context, name, uuid string) (to string, err error) {
	for _, to = range namesFor(uuid) {
		if err = v.db.RenameInstance(ctx, name, to); !errors.Is(err, kiln.Conflict) {
			break
		}
	}
	if err == nil {
		v.remark("the name %q is that of an instance which has files; the one in the database, which has none, is called "+
			"%s now", name, to)
	}
	return to, err
}

// usable counts the snapshots of an instance whose files are there.
func (v *recoverer) usable(all []db.SnapshotFiles, of db.Instance) (n int) {
	for _, s := range all {
		if s.Project != of.Project || s.Instance != of.Name {
			continue
		}
		if _, err := v.pool.GetSnapshot(s.Files); err == nil {
			n++
		}
	}
	return n
}

// flagOf ends a command about something in a project.
func flagOf(name string) string {
	if name == project.Default {
		return ""
	}
	return " --project " + name
}

// recoverProfiles makes the profiles that instances to be made use, as the first of some volumes
// knows them. One that is there is changed only if it counts less than records.
func (v *recoverer) recoverProfiles(ctx context.Context, volumes []string, records map[string]instance.Record,
	rows map[string]db.Instance) error {
	for _, uuid := range volumes {
		_, ok := rows[uuid]
		if _, recorded := records[uuid]; ok || !recorded {
			continue
		}
		in, err := v.inProject(ctx, records[uuid].Instance.Project)
		if err != nil {
			return err
		}
		for _, p := range records[uuid].Profiles {
			if err := v.recoverProfile(in, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// recoverProfile brings back a profile of a record. Those that are read later say nothing of it.
func (v *recoverer) recoverProfile(ctx context.Context, p db.Profile) error {
	owner, err := project.One(ctx, project.Profiles)
	of := db.Name{Project: owner, Name: p.Name}
	if err != nil || v.settled[of] {
		return err
	}
	err = errors.Join(instance.CheckOptions(p.Config), instance.CheckDevices(p.Devices))
	if err != nil { // as a newer kiln may have taken; the profile is of use all the same
		v.remark("profile %q: %v", p.Name, err)
	}
	has, err := v.db.Profile(ctx, p.Name)
	switch {
	case errors.Is(err, kiln.NotFound):
		err = v.db.CreateProfile(ctx, p)
	case err != nil:
		return err
	case has.Damage != "":
		v.remark("profile %q is damaged: %s", p.Name, has.Damage)
		return nil
	case !v.overrule || sameProfile(has, p):
		v.settled[of] = true
		return nil
	default:
		err = v.db.EditProfile(ctx, p.Name, func(row *db.Profile) error {
			row.Description, row.Config, row.Devices = p.Description, p.Config, p.Devices
			return nil
		})
	}
	if err == nil {
		v.settled[of] = true
		v.r.Profiles = append(v.r.Profiles, v.called(ctx, p.Name))
	}
	return err
}

// called is what a thing is called for people: with its project, if that isn't the default one.
func (v *recoverer) called(ctx context.Context, name string) string {
	return calledIn(project.Name(ctx), name)
}

// calledIn is called of a thing in a project.
func calledIn(in, name string) string {
	if in != project.Default {
		return name + " (project " + in + ")"
	}
	return name
}

func sameProfile(a, b db.Profile) bool {
	return a.Description == b.Description && maps.Equal(a.Config, b.Config) &&
		maps.EqualFunc(a.Devices, b.Devices, maps.Equal[map[string]string, map[string]string])
}

// madeUpFor names the instance of a volume whose name is lost.
func madeUpFor(uuid string) string {
	return "recovered-" + strings.Trim(uuid[:min(8, len(uuid))], "-")
}

// namesFor gives the names that are tried for the instance of a volume.
func namesFor(uuid string) []string { return []string{madeUpFor(uuid), "recovered-" + uuid} }

// recoverInstance makes the row of a volume that has none, and attaches its snapshots.
// What is wrong with one keeps no other from coming back.
func (v *recoverer) recoverInstance(ctx context.Context, uuid string, records map[string]instance.Record,
	rows map[string]db.Instance) error {
	record, recorded := records[uuid]
	if row, ok := rows[uuid]; ok {
		in, err := v.In(ctx, row.Project)
		if err != nil {
			return err
		}
		if err := v.attach(in, row.Name, record.Snapshots); err != nil {
			return err
		}
		return v.attachKept(in, uuid, row)
	}
	ctx, err := v.inProject(ctx, cmp.Or(record.Instance.Project, project.Default))
	if err != nil {
		return err
	}
	vol, err := v.pool.Get(uuid)
	if err != nil {
		v.left("the volume %s: %v", uuid, err)
		return v.pool.Keep(uuid)
	}
	row := record.Instance
	if !recorded {
		row = db.Instance{Name: madeUpFor(uuid), Type: "container", Architecture: HostArch(), CreatedAt: time.Now().UTC(),
			Description: "made of files that no instance had", Config: map[string]string{instance.UUIDKey: uuid},
			Profiles: []string{defaultProfile}}
	}
	row.Base = vol.Base()
	row.Running = len(box.Processes(uuid)) > 0 // the next daemon follows it, or finds that it has ended
	if row.Profiles, err = v.there(ctx, row.Name, row.Profiles); err != nil {
		return err
	}
	name := row.Name
	for _, row.Name = range append([]string{name}, namesFor(uuid)...) {
		if err = v.db.CreateInstance(ctx, row); !errors.Is(err, kiln.Conflict) {
			break
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, kiln.NoSpace) {
		v.left("the volume %s: %v", uuid, err)
		return v.pool.Keep(uuid)
	}
	if err != nil {
		return err
	}
	if row.Name != name {
		v.remark("the name %q is that of another instance; this one is called %s now: kiln rename %s NAME%s", name, row.Name,
			row.Name, flagOf(project.Name(ctx)))
	}
	if err := v.lease(ctx, row); err != nil {
		return err
	}
	v.r.Instances = append(v.r.Instances, v.called(ctx, row.Name))
	if !recorded {
		v.remark("the name and configuration of instance %s are not known: %v; see what it is, and then: "+
			"kiln rename %s NAME%s", row.Name, v.unrecorded[uuid], row.Name, flagOf(project.Name(ctx)))
	}
	if err := v.attach(ctx, row.Name, record.Snapshots); err != nil {
		return err
	}
	row.Project = project.Name(ctx)
	return v.attachKept(ctx, uuid, row)
}

// there gives those of some profiles that exist.
func (v *recoverer) there(ctx context.Context, owner string, names []string) ([]string, error) {
	list := []string{}
	for _, p := range names {
		_, err := v.db.Profile(ctx, p)
		switch {
		case err == nil:
			list = append(list, p)
		case errors.Is(err, kiln.NotFound):
			v.remark("the profile %q, which %s used, is lost; create it and add it again: kiln profile create %s%s", p,
				owner, p, flagOf(project.Name(ctx)))
		default:
			return nil, err
		}
	}
	return list, nil
}

// attach makes the rows of snapshots of an instance that have files and no row.
func (v *recoverer) attach(ctx context.Context, name string, list []db.Snapshot) error {
	for _, s := range list {
		if v.attached[s.Files] {
			continue
		}
		tree, err := v.pool.GetSnapshot(s.Files)
		if errors.Is(err, kiln.NotFound) {
			v.remark("snapshot %s/%s has no files; it was being deleted, or they are lost", name, s.Name)
			continue
		}
		if err != nil {
			continue // told where it is put away
		}
		s.Instance, s.Base = name, tree.Base()
		if s.Profiles, err = v.there(ctx, name+"/"+s.Name, s.Profiles); err != nil {
			return err
		}
		known := s.Name
		err = v.db.CreateSnapshot(ctx, s)
		if errors.Is(err, kiln.Conflict) {
			s.Name = madeUpFor(s.Files)
			v.remark("instance %s has another snapshot %q; this one is called %s now", name, known, s.Name)
			err = v.db.CreateSnapshot(ctx, s)
		}
		if err != nil {
			return err
		}
		v.attached[s.Files] = true
		v.r.Snapshots = append(v.r.Snapshots, v.called(ctx, name+"/"+s.Name))
	}
	return nil
}

// keepSnapshots puts the snapshots away for good that no row and no record names.
func (v *recoverer) keepSnapshots() error {
	all, err := v.pool.Snapshots()
	if err != nil {
		return err
	}
	for _, files := range all {
		if v.attached[files] {
			continue
		}
		if err := v.pool.KeepSnapshot(files); err != nil {
			return err
		}
		v.left("the snapshot %s: no record says which instance it is of", files)
	}
	return nil
}
