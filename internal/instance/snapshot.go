package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Snapshot is an instance as it was at one moment.
type Snapshot struct {
	Project         string
	Instance, Name  string
	CreatedAt       time.Time
	ExpiresAt       time.Time // zero: never
	LastUsedAt      time.Time // of the instance, until then
	Architecture    string
	Base            kiln.Fingerprint
	Config                            // of the instance at that time
	ExpandedConfig  map[string]string // with the profiles as they are now
	ExpandedDevices map[string]map[string]string
	Size            int64  // bytes that the instance had changed since the snapshot before
	Damage          string // why it can only be listed and deleted; "": nothing
}

// NewSnapshot says what snapshot to make.
type NewSnapshot struct {
	Name      string
	ExpiresAt *time.Time // nil: as snapshots.expiry says; zero: never
}

// Snapshots gives the snapshots of an instance, oldest first. The error is
// NotFound.
func (s *Set) Snapshots(ctx context.Context, name string) ([]Snapshot, error) {
	if _, err := s.db.Instance(ctx, name); err != nil {
		return nil, err
	}
	rows, err := s.db.Snapshots(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.completeSnapshots(ctx, rows)
}

// AllSnapshots are the snapshots of many instances. What these are configured with may be
// large together: a few are in memory at once.
type AllSnapshots struct {
	set      *Set
	profiles func(project string) profiles
	refs     []db.SnapshotRef
	first    map[db.Name]int // of an instance, among refs
	read     map[int64]db.Snapshot
	from, to int // among refs, of what was read
}

// At once are read snapshots with mostRead bytes of configuration, or mostRefs of them.
const (
	mostRead = 1 << 20
	mostRefs = 1000
)

// AllSnapshots gives the snapshots of one instance, or for "" of every instance of the
// projects that ctx is about. The error is NotFound.
func (s *Set) AllSnapshots(ctx context.Context, instance string) (*AllSnapshots, error) {
	if instance != "" {
		if _, err := s.db.Instance(ctx, instance); err != nil {
			return nil, err
		}
	}
	a := &AllSnapshots{set: s, first: map[db.Name]int{}}
	var err error
	if a.refs, err = s.db.SnapshotRefs(ctx, instance); err != nil {
		return nil, err
	}
	for i, r := range a.refs {
		if of := ownerOf(r); i == 0 || of != ownerOf(a.refs[i-1]) {
			a.first[of] = i
		}
	}
	a.profiles, err = s.profilesOf(ctx)
	return a, err
}

func ownerOf(r db.SnapshotRef) db.Name { return db.Name{Project: r.Project, Name: r.Instance} }

// Refs gives what lists show of the snapshots of an instance, oldest first.
func (a *AllSnapshots) Refs(of db.Name) []db.SnapshotRef {
	from, ok := a.first[of]
	if !ok {
		return nil
	}
	to := from
	for to < len(a.refs) && ownerOf(a.refs[to]) == of {
		to++
	}
	return a.refs[from:to]
}

// Each calls f with the snapshots of an instance, oldest first, but for those that are gone
// by now. It is quickest in the order in which instances are listed.
func (a *AllSnapshots) Each(ctx context.Context, of db.Name, f func(Snapshot) error) error {
	from := a.first[of]
	for i, ref := range a.Refs(of) {
		if err := a.load(ctx, from+i); err != nil {
			return err
		}
		row, ok := a.read[ref.ID]
		if !ok || row.Project != of.Project || row.Instance != of.Name {
			continue
		}
		if err := f(a.set.completeSnapshot(row, a.profiles)); err != nil {
			return err
		}
	}
	return nil
}

// load reads the snapshot at a place of refs, and those behind it.
func (a *AllSnapshots) load(ctx context.Context, at int) (err error) {
	if a.from <= at && at < a.to {
		return nil
	}
	a.from, a.to, a.read = at, at, nil
	for text := int64(0); a.to < len(a.refs) && a.to < at+mostRefs && (a.to == at || text < mostRead); a.to++ {
		text += a.refs[a.to].Text
	}
	if a.read, err = a.set.db.SnapshotsAt(ctx, a.refs[at:a.to]); err != nil {
		a.from, a.to = 0, 0
	}
	return err
}

// Snapshot gives one snapshot. The error is NotFound.
func (s *Set) Snapshot(ctx context.Context, instance, name string) (Snapshot, error) {
	row, err := s.snapshotRow(ctx, instance, name)
	if err != nil {
		return Snapshot{}, err
	}
	list, err := s.completeSnapshots(ctx, []db.Snapshot{row})
	if err != nil {
		return Snapshot{}, err
	}
	return list[0], nil
}

func (s *Set) snapshotRow(ctx context.Context, instance, name string) (db.Snapshot, error) {
	if _, err := s.db.Instance(ctx, instance); err != nil {
		return db.Snapshot{}, err
	}
	row, err := s.db.Snapshot(ctx, instance, name)
	if !errors.Is(err, kiln.NotFound) {
		return row, err
	}
	list, err := s.db.SnapshotFiles(ctx, instance)
	if err != nil {
		return row, err
	}
	var names []string
	for _, other := range list {
		names = append(names, other.Name)
	}
	return row, kiln.Errorf(kiln.NotFound, "instance %q has no snapshot %q%s; see: kiln snapshot list %s", instance, name,
		kiln.DidYouMean(name, names), instance)
}

// wholeSnapshot gives the row of a snapshot that is to be used or changed. Errors:
// NotFound, Integrity when the row is damaged.
func (s *Set) wholeSnapshot(ctx context.Context, instance, name string) (db.Snapshot, error) {
	row, err := s.snapshotRow(ctx, instance, name)
	if err == nil {
		err = row.Whole()
	}
	return row, err
}

func (s *Set) completeSnapshots(ctx context.Context, rows []db.Snapshot) ([]Snapshot, error) {
	profiles, err := s.profilesOf(ctx)
	if err != nil {
		return nil, err
	}
	list := []Snapshot{}
	for _, r := range rows {
		list = append(list, s.completeSnapshot(r, profiles))
	}
	return list, nil
}

func (s *Set) completeSnapshot(r db.Snapshot, profiles func(project string) profiles) Snapshot {
	snap := Snapshot{
		Project: r.Project, Instance: r.Instance, Name: r.Name, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt,
		LastUsedAt:   r.LastUsedAt,
		Architecture: r.Architecture, Base: r.Base, Damage: r.Damage,
		Config: Config{Description: r.Description, Ephemeral: r.Ephemeral, Profiles: r.Profiles, Options: r.Config,
			Devices: r.Devices},
	}
	var used []Profile // but for those that are gone since
	for _, name := range r.Profiles {
		if p, ok := profiles(r.Project).list[name]; ok {
			used = append(used, p)
		}
	}
	snap.ExpandedConfig, snap.ExpandedDevices = expand(snap.Config, used)
	if tree, err := s.pool.GetSnapshot(r.Files); err == nil {
		snap.Size, _ = tree.Usage() // one that can't be counted is listed all the same
	}
	return snap
}

// CreateSnapshot keeps an instance as it is now, its files and its configuration.
// A running one is frozen for a moment. Errors: NotFound, Invalid, Conflict.
func (s *Set) CreateSnapshot(ctx context.Context, instance string, n NewSnapshot) error {
	ctx, unlock, err := s.lock(ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	i, err := s.Get(ctx, instance)
	if err != nil {
		return err
	}
	return s.snapshot(ctx, i, n)
}

// CheckSnapshot says whether a snapshot can be made. Errors: NotFound, Invalid,
// Conflict.
func (s *Set) CheckSnapshot(ctx context.Context, instance, name string) error {
	if err := kiln.CheckSnapshotName(name); err != nil {
		return err
	}
	if _, err := s.db.Instance(ctx, instance); err != nil {
		return err
	}
	_, err := s.db.Snapshot(ctx, instance, name)
	if err == nil {
		return takenSnapshot(instance, name)
	}
	if errors.Is(err, kiln.NotFound) {
		return nil
	}
	return err
}

func takenSnapshot(instance, name string) error {
	return kiln.Errorf(kiln.Conflict, "Snapshot %q of instance %q already exists; choose another name, or replace it "+
		"with --reuse", name, instance)
}

func (s *Set) snapshot(ctx context.Context, i Instance, n NewSnapshot) error {
	if err := s.CheckKeeping(ctx, Snapshots); err != nil {
		return err
	}
	if err := s.CheckSnapshot(ctx, i.Name, n.Name); err != nil {
		return err
	}
	if err := s.checkSnapshotText(ctx, i); err != nil {
		return err
	}
	now := time.Now().UTC()
	if n.ExpiresAt == nil {
		at, err := kiln.ParseExpiry(i.ExpandedConfig["snapshots.expiry"], now)
		if err != nil {
			return err
		}
		n.ExpiresAt = &at
	}
	row := db.Snapshot{
		Instance: i.Name, Name: n.Name, Files: uuid.NewString(), CreatedAt: now, ExpiresAt: *n.ExpiresAt,
		LastUsedAt:   i.LastUsedAt,
		Architecture: i.Architecture, Description: i.Description, Ephemeral: i.Ephemeral, Base: i.Base,
		Config: i.Options, Devices: i.Devices, Profiles: i.Profiles,
	}
	pause, err := s.pause(i)
	if err != nil {
		return err
	}
	if _, err := s.pool.Snapshot(ctx, i.Options[UUIDKey], row.Files, pause); err != nil {
		err = filesOfInstance(i.Name, err)
		return kiln.Errorf(kiln.KindOf(err), "snapshot %s/%s: %w", i.Name, n.Name, err)
	}
	if err := s.db.CreateSnapshot(ctx, row); err != nil {
		return errors.Join(err, s.pool.DeleteSnapshots(context.WithoutCancel(ctx), row.Files))
	}
	s.notify(ctx, Change{Name: i.Name, Action: "snapshot-created", Snapshot: n.Name})
	return nil
}

// RenameSnapshot gives a snapshot another name. Errors: NotFound, Invalid, Conflict.
func (s *Set) RenameSnapshot(ctx context.Context, instance, from, to string) error {
	ctx, unlock, err := s.lock(ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.wholeSnapshot(ctx, instance, from); err != nil {
		return err
	}
	if err := s.CheckSnapshot(ctx, instance, to); err != nil {
		return err
	}
	if err := s.db.RenameSnapshot(ctx, instance, from, to); err != nil {
		return err
	}
	s.notify(ctx, Change{Name: instance, Action: "snapshot-renamed", Snapshot: to})
	return nil
}

// SetSnapshotExpiry changes when a snapshot goes, in one transaction; zero: never.
// Errors: NotFound, and those of change.
func (s *Set) SetSnapshotExpiry(ctx context.Context, instance, name string,
	change func(time.Time) (time.Time, error)) error {
	if _, err := s.wholeSnapshot(ctx, instance, name); err != nil {
		return err
	}
	if err := s.db.SetSnapshotExpiry(ctx, instance, name, change); err != nil {
		return err
	}
	s.notify(ctx, Change{Name: instance, Action: "snapshot-updated", Snapshot: name})
	return nil
}

// DeleteSnapshot removes a snapshot. The instance and its other snapshots stay as
// they are. The error is NotFound.
func (s *Set) DeleteSnapshot(ctx context.Context, instance, name string) error {
	waiting, cancel := turn(ctx, s.turnTime)
	defer cancel()
	return s.deleteSnapshot(waiting, ctx, instance, name, nil)
}

// deleteSnapshot waits for its turn no longer than waiting lasts. With unwanted, a snapshot that
// isn't by then stays: the error is Conflict.
func (s *Set) deleteSnapshot(waiting, ctx context.Context, instance, name string,
	unwanted func(db.Snapshot) bool) error {
	ctx, unlock, err := s.lockWhile(waiting, ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	row, err := s.snapshotRow(ctx, instance, name)
	if err != nil {
		return err
	}
	if err := s.db.DeleteSnapshotIf(ctx, instance, name, unwanted); err != nil {
		return err
	}
	s.notify(ctx, Change{Name: instance, Action: "snapshot-deleted", Snapshot: name})
	return s.pool.DeleteSnapshots(ctx, filesOf([]db.SnapshotFiles{{Files: row.Files}})...)
}

// sweepSnapshots removes the snapshots that the last daemon needed for a while only, and puts
// those away that no row names. Those of what runs without a row stay, and all while it isn't
// known which these are.
func (s *Set) sweepSnapshots(ctx context.Context) error {
	rows, err := s.db.AllSnapshotFiles(project.InAll(ctx))
	if err != nil {
		return err
	}
	all, err := s.pool.Snapshots()
	if err != nil {
		return err
	}
	passing, all := splitPassing(all)
	var errs []error
	if len(passing) > 0 {
		errs = append(errs, s.pool.DeleteSnapshots(ctx, passing...))
	}
	named := filesOf(rows)
	if len(named) < len(rows) {
		return errors.Join(append(errs, kiln.Errorf(kiln.Integrity, "the row of a snapshot doesn't say which files it has, "+
			"so none are put away until the snapshot is deleted"))...)
	}
	strays, any := s.strays.snapshots()
	for _, name := range all {
		if !slices.Contains(named, name) && !strays[name] && !any {
			errs = append(errs, s.pool.LoseSnapshot(name))
			s.warn("no instance has the snapshot "+strconv.Quote(name), fmt.Errorf("kept in lost/ for %v", volume.LostTime))
		}
	}
	return errors.Join(errs...)
}

// splitPassing gives the names of passingName among some, and the others.
func splitPassing(names []string) (passing, others []string) {
	for _, name := range names {
		if strings.HasPrefix(name, passingPrefix) {
			passing = append(passing, name)
		} else {
			others = append(others, name)
		}
	}
	return passing, others
}

// filesOf gives what names the files of snapshots.
func filesOf(rows []db.SnapshotFiles) []string {
	var list []string
	for _, r := range rows {
		if r.Files != "" { // else the row is damaged
			list = append(list, r.Files)
		}
	}
	return list
}

// CopyFiles makes the files of a new instance from those of another one, or of a
// snapshot: "c1/snap0". The snapshots of an instance come along if they are asked
// for. Errors: NotFound, Conflict.
func (s *Set) CopyFiles(ctx context.Context, from string, to *Files, snapshots bool) error {
	instance, snap, ofSnapshot := strings.Cut(from, "/")
	ctx, unlock, err := s.lock(ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	i, err := s.Get(ctx, instance)
	if err != nil {
		return err
	}
	if ofSnapshot {
		row, err := s.wholeSnapshot(ctx, instance, snap)
		if err == nil {
			_, err = s.pool.CloneSnapshot(ctx, row.Files, to.UUID)
			err = filesOfSnapshot(instance, snap, err)
		}
		return err
	}
	pause, err := s.pause(i)
	if err != nil {
		return err
	}
	if snapshots {
		if err := s.copySnapshots(ctx, instance, to); err != nil {
			return err
		}
	}
	_, err = s.pool.Copy(ctx, i.Options[UUIDKey], to.UUID, pause)
	return filesOfInstance(instance, err)
}

func (s *Set) copySnapshots(ctx context.Context, instance string, to *Files) error {
	rows, err := s.db.Snapshots(ctx, instance)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := r.Whole(); err != nil {
			return err
		}
		from := r.Files
		r.Files, r.Config = uuid.NewString(), maps.Clone(r.Config)
		r.Config[UUIDKey] = to.UUID
		if r.Config[TemplateKey] == "" { // in its files are still the name and such of the other
			r.Config[TemplateKey] = "copy"
		}
		if err := s.pool.CopySnapshot(ctx, from, r.Files); err != nil {
			return filesOfSnapshot(instance, r.Name, err)
		}
		to.snapshots = append(to.snapshots, r)
	}
	return nil
}

// pause gives what holds an instance still while its files are copied; nil when it
// doesn't run. The error is Conflict, as of look.
func (s *Set) pause(i Instance) (volume.Pause, error) {
	l, err := s.look(db.Instance{Config: i.Options})
	if err != nil {
		return nil, kiln.Errorf(kiln.Conflict, "instance %q: %w", i.Name, err)
	}
	if l == nil {
		return nil, nil
	}
	return func(ctx context.Context) (func() error, error) { return s.hold(ctx, i, l) }, nil
}
