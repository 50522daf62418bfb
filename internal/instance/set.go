package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/files"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Change is something that happened to an instance, also without anybody
// having asked: "started", "stopped", "restarted", "deleted", …
type Change struct {
	Name     string // within the project that the context is about
	Action   string
	Snapshot string // it happened to this one, "snapshot-created", "snapshot-deleted", …
}

// Unasked is what a Set does with an instance without being asked at that moment.
type Unasked int

// What is done unasked: starts with the daemon, and snapshots of a schedule.
const (
	StartWithDaemon Unasked = iota
	ScheduledSnapshot
)

// A Set holds the instances of one daemon.
type Set struct {
	// Networks connects interfaces; it is set before anything is started.
	Networks Networks
	// Removed is told what the backups of an instance that was deleted are kept by, and go
	// with it; it may be nil, and is set before anything is started.
	Removed func(uuid string) error
	// Failed is told what went wrong of what is done unasked; it may be nil, and is set
	// before anything is started.
	Failed func(what Unasked, i Instance, err error)
	// Proxies carry connections; they are set before anything is started.
	Proxies Proxies
	// Profiles are AppArmor's, of what starts; they may be nil, and are set before anything is
	// started.
	Profiles *box.Profiles
	// Work tells whoever has to wait what the work of a context is, such as an operation; "":
	// it isn't known. It may be nil, and is set before anything is started.
	Work func(ctx context.Context) string
	// HoldTime bounds how long the processes of an instance may take to stand still; 0: as
	// usual. It is set before anything is started.
	HoldTime time.Duration
	// Hardware is where the hardware that devices name is looked for; "": this host. It is set
	// before anything is started.
	Hardware hardware.Root

	db     *db.DB
	pool   *volume.Pool
	dir    string // of the boxes' own files
	ids    []box.IDMap
	host   string // architecture of this kernel, canonical
	notify func(context.Context, Change)
	warn   func(what string, err error)

	ctx    context.Context // ends with Close; nothing of a container does
	cancel context.CancelFunc
	wg     sync.WaitGroup
	names  keyLock
	files  keyLock // of served

	sendImage  atomic.Pointer[SendImage]
	addressing sync.Mutex // held while hardware addresses of elsewhere are looked at and written down
	idRanges   sync.Mutex // held while ids are chosen and written down

	strays    strays
	suspended atomic.Bool // the host goes down: nothing starts by itself any more

	mu      sync.Mutex
	live    map[string]*live         // what runs, by the instance's UUID
	served  map[string]*files.Helper // whose files are in use, by the instance's UUID
	still   map[string]bool          // whose files must not change now, by UUID
	claimed map[string]bool          // keys of instances that are being made
	short   map[string]int           // lives in a row that ended within seconds, by UUID
	awaited map[string]func()        // ends the wait for a start that nobody asked for, by UUID
	late    map[string]bool          // whose scheduled snapshots were kept off by other work, by BackupsOf

	restartPause time.Duration // before the first of those after something failed
	unaskedWait  time.Duration // of what is done unasked, for other work
	turnTime     time.Duration // of what is asked for, for other work
}

// live is an instance that runs.
type live struct {
	box      *box.Box
	held     atomic.Bool                     // frozen for a snapshot, not by a user
	stop     atomic.Pointer[event.Requestor] // who has asked for its end
	stopping atomic.Int32                    // how many are waiting for its end
	killing  atomic.Int32                    // how many have killed it, and do
	console  atomic.Pointer[Attachment]      // who is attached to its console
	guest    guestServer                     // answers it about itself
	doing    atomic.Pointer[string]          // what is done about its end, or its reboot
	gone     chan struct{}                   // closed when its end is written down
	holdTime time.Duration                   // of the Set
}

// paused reports whether a user has paused the instance.
func (l *live) paused() bool { return l.box.Frozen() && !l.held.Load() }

// Open finds the instances, adopts the ones that run, and writes down what
// stopped while nobody looked. notify hears of every change, and warn of what is
// wrong with one instance and keeps no other from working; neither may block.
func Open(ctx context.Context, d *db.DB, pool *volume.Pool, dir, hostArch string, notify func(context.Context, Change),
	warn func(what string, err error)) (*Set, error) {
	ids, err := hostIDs("/etc/subuid", "/etc/subgid")
	if err != nil {
		return nil, err
	}
	s := &Set{db: d, pool: pool, dir: dir, ids: ids, host: hostArch, notify: notify, warn: warn, live: map[string]*live{},
		served: map[string]*files.Helper{}, still: map[string]bool{}, claimed: map[string]bool{}, short: map[string]int{},
		awaited: map[string]func(){}, restartPause: restartPause, unaskedWait: unaskedWait, turnTime: turnTime}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	rows, err := d.Instances(project.InAll(ctx))
	if err != nil {
		return nil, err
	}
	profiles, err := s.profilesOf(project.InAll(ctx))
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if err := s.adopt(ctx, r, profiles(r.Project)); err != nil {
			warn("take over instance "+strconv.Quote(r.Name), err)
		}
	}
	s.finishRestores(ctx, rows)
	if err := s.sweep(ctx, rows); err != nil {
		warn("remove what no instance needs", err)
	}
	return s, nil
}

// adopt takes over the box of an instance that a former daemon started.
func (s *Set) adopt(ctx context.Context, r db.Instance, profiles profiles) error {
	ctx, err := s.in(ctx, r.Project)
	if err != nil {
		return err
	}
	var b *box.Box
	err = s.db.WithReserve(func() (err error) { b, err = box.Open(s.boxDir(r)); return err })
	switch {
	case err == nil:
		if err := s.letGo(ctx, r, b); err != nil { // it is there all the same; a stop or a resume lets it go
			s.warn("let instance "+strconv.Quote(r.Name)+" go on", err)
		}
		l := s.follow(ctx, r.Name, r.Config[UUIDKey], b, nil)
		i, err := s.complete(r, profiles)
		if err == nil {
			err = s.setGuest(l, i)
		}
		if err != nil {
			s.warn("guest API of instance "+strconv.Quote(r.Name), err)
		}
		if !r.Running {
			return s.edit(ctx, r.Name, func(r *db.Instance) { r.Running = true })
		}
		return nil
	case errors.Is(err, kiln.NotFound):
		if r.Running {
			return s.ended(ctx, r.Name, "stopped")
		}
		return nil
	}
	return err
}

// sweep puts away what no row names: volumes and snapshots of instances that were
// being made or deleted when the last daemon died, and, who knows, of ones whose row
// is damaged. So the files are kept for a while. What runs is of a database of another age,
// and goes on with what is its: nobody ends it because its row is missing.
func (s *Set) sweep(ctx context.Context, rows []db.Instance) error {
	keep := map[string]bool{}
	for _, r := range rows {
		keep[r.Config[UUIDKey]] = true
	}
	damaged := keep[""]
	boxes, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.findStrays(boxes, keep)
	if damaged {
		return errors.Join(kiln.Errorf(kiln.Integrity, "the row of an instance doesn't say which files it has, so none are "+
			"put away until the instance is deleted"), s.sweepSnapshots(ctx))
	}
	volumes, err := s.pool.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range volumes {
		if !keep[name] {
			errs = append(errs, s.pool.Lose(name))
			s.warn("no instance has the files "+strconv.Quote(name), fmt.Errorf("kept in lost/ for %v", volume.LostTime))
		}
	}
	errs = append(errs, s.sweepSnapshots(ctx))
	for _, e := range boxes {
		if keep[e.Name()] {
			continue
		}
		if err := uuid.Validate(e.Name()); err != nil { // also where somebody linked boxes to
			s.warn("left alone", fmt.Errorf("%s isn't kiln's", filepath.Join(s.dir, e.Name())))
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(s.dir, e.Name())))
	}
	return errors.Join(errs...)
}

// Close stops watching. The instances keep running.
func (s *Set) Close() error {
	s.cancel()
	s.wg.Wait()
	errs := []error{s.endAllFiles(), s.strays.close()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.live {
		errs = append(errs, l.guest.close(), l.box.Close())
	}
	return errors.Join(errs...)
}

// in has ctx be about a project, for work that nobody asked for.
func (s *Set) in(ctx context.Context, name string) (context.Context, error) {
	p, err := s.db.Scope(ctx, name)
	return project.In(ctx, p), err
}

func (s *Set) failed(what Unasked, i Instance, err error) {
	if s.Failed != nil {
		s.Failed(what, i, err)
	}
}

// List gives the instances of the projects that ctx is about, by name.
func (s *Set) List(ctx context.Context) ([]Instance, error) {
	rows, err := s.db.Instances(ctx)
	if err != nil {
		return nil, err
	}
	profiles, err := s.profilesOf(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Instance, 0, len(rows))
	for _, r := range rows {
		i, err := s.complete(r, profiles(r.Project))
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, nil
}

// BackupOwners gives what the backups of every instance are kept by, of whatever project.
// all is false when the row of one doesn't say.
func (s *Set) BackupOwners(ctx context.Context) (owners map[string]bool, all bool, err error) {
	rows, err := s.db.Instances(project.InAll(ctx))
	owners = make(map[string]bool, len(rows))
	for _, r := range rows {
		owners[BackupsOf(r.Config)] = true
	}
	return owners, err == nil && !owners[""], err
}

// Get gives one instance. The error is NotFound.
func (s *Set) Get(ctx context.Context, name string) (Instance, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return Instance{}, err
	}
	profiles, err := s.profilesOf(ctx)
	if err != nil {
		return Instance{}, err
	}
	return s.complete(r, profiles(r.Project))
}

// profiles are those that instances of a project can have.
type profiles struct {
	of   string // whose they are
	list map[string]Profile
}

// profilesOf gives the profiles for the instances of each project that ctx is about.
func (s *Set) profilesOf(ctx context.Context) (func(name string) profiles, error) {
	if p, err := project.Of(ctx); err == nil {
		list, err := s.profiles(ctx)
		return func(string) profiles { return profiles{p.Profiles, list} }, err
	}
	scopes, err := s.db.Scopes(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Profiles(project.InAll(ctx))
	all := map[string]map[string]Profile{}
	for _, p := range rows {
		if all[p.Project] == nil {
			all[p.Project] = map[string]Profile{}
		}
		all[p.Project][p.Name] = p
	}
	return func(name string) profiles {
		of := scopes[name].Profiles
		return profiles{of, all[of]}
	}, err
}

// profiles gives those of the one project that ctx is about.
func (s *Set) profiles(ctx context.Context) (map[string]Profile, error) {
	list, err := s.db.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	m := make(map[string]Profile, len(list))
	for _, p := range list {
		m[p.Name] = p
	}
	return m, nil
}

func pick(names []string, profiles map[string]Profile) ([]Profile, error) {
	list := make([]Profile, 0, len(names))
	for _, n := range names {
		p, ok := profiles[n]
		if !ok {
			return nil, kiln.Errorf(kiln.NotFound, "Profile '%s' doesn't exist%s; see: kiln profile list", n,
				kiln.DidYouMean(n, slices.Collect(maps.Keys(profiles))))
		}
		if p.Damage != "" {
			return nil, kiln.Errorf(kiln.Integrity, "profile %q can't be used: %s; take it from its instances and delete it, "+
				"or bring a copy of the database back: kiln admin restore-database", n, p.Damage)
		}
		list = append(list, p)
	}
	return list, nil
}

func (s *Set) complete(r db.Instance, profiles profiles) (Instance, error) {
	i := fromRow(r)
	i.ProfilesOf = profiles.of
	i.Problem = r.Damage
	if r.Config[UUIDKey] == "" && i.Problem == "" {
		i.Problem = "its configuration doesn't say which files it has (" + UUIDKey + ")"
	}
	var used []Profile
	for _, name := range r.Profiles {
		if p, ok := profiles.list[name]; ok {
			used = append(used, p)
		} else if i.Problem == "" {
			i.Problem = fmt.Sprintf("its profile %q doesn't exist", name)
		}
		if p := profiles.list[name]; p.Damage != "" && i.Problem == "" {
			i.Problem = fmt.Sprintf("its profile %q can't be used: %s", name, p.Damage)
		}
	}
	if i.Problem != "" {
		i.Status = Broken
	}
	i.ExpandedConfig, i.ExpandedDevices = expand(i.Config, used)
	if l := s.running(r); l != nil {
		i.Status = Running
		switch {
		case l.paused():
			i.Status = Frozen
		case kiln.IsTrue(r.Config[readyKey]):
			i.Status = Ready
		}
	}
	if why := i.Options[crashKey]; why != "" && i.Problem == "" {
		i.Problem = fmt.Sprintf("crash loop: %s; what it wrote: kiln console %[2]s --show-log; start it again with: "+
			"kiln start %[2]s", why, i.Name)
	}
	return i, nil
}

func (s *Set) running(r db.Instance) *live { return s.runs(r.Config[UUIDKey]) }

// runs gives what runs of a UUID, or nil.
func (s *Set) runs(uuid string) *live {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[uuid]
}

// boxDir is where an instance's box is; of one whose UUID is lost, nowhere.
func (s *Set) boxDir(r db.Instance) string {
	id := r.Config[UUIDKey]
	if id == "" || strings.ContainsRune(id, '/') {
		id = "none"
	}
	return filepath.Join(s.dir, id)
}

// edit changes the row of an instance in one transaction.
func (s *Set) edit(ctx context.Context, name string, f func(*db.Instance)) error {
	return s.db.EditInstance(ctx, name, func(r *db.Instance) error {
		if r.Config == nil {
			r.Config = map[string]string{}
		}
		f(r)
		return nil
	})
}

func conflict(name string) error {
	return kiln.Errorf(kiln.Conflict, "Instance %q already exists; give another name, or delete that one first: kiln "+
		"delete %[1]s", name)
}

func (s *Set) check(ctx context.Context, c Config) error {
	if err := kiln.CheckDescription(c.Description); err != nil {
		return err
	}
	if err := CheckOptions(c.Options); err != nil {
		return err
	}
	if err := CheckDevices(c.Devices); err != nil {
		return err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	used, err := pick(c.Profiles, profiles)
	if err != nil {
		return err
	}
	_, devices := expand(c, used)
	if !hasRoot(devices) {
		return kiln.Errorf(kiln.Invalid, "Failed getting root disk: No root device could be found; use a profile with one, "+
			"as \"default\" has at first, or add: -d root,type=disk,path=/,pool=default")
	}
	return s.checkNetworks(ctx, devices)
}

// Rename gives a stopped instance another name.
// Errors: NotFound, Invalid, Conflict.
func (s *Set) Rename(ctx context.Context, from, to string) error {
	if err := kiln.CheckInstanceName(to); err != nil {
		return err
	}
	ctx, unlock, err := s.lock(ctx, from)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.stopped(ctx, from, "renamed")
	if err != nil {
		return err
	}
	release, err := s.claim(ctx, to)
	if err != nil {
		return err
	}
	defer release()
	if err := s.db.RenameInstance(ctx, r.Name, to, tellName); err != nil {
		if errors.Is(err, kiln.Conflict) {
			return conflict(to)
		}
		return err
	}
	s.notify(ctx, Change{Name: to, Action: "renamed"})
	return nil
}

// tellName has the next start tell the files of an instance the name that it has now.
func tellName(r *db.Instance) error {
	if r.Config == nil {
		r.Config = map[string]string{}
	}
	r.Config[TemplateKey] = cmp.Or(r.Config[TemplateKey], "rename")
	return nil
}

// Move gives a stopped instance with its snapshots to the project that into is about, under
// a name there. It has that project's profiles of the names given, of the names it had for nil.
// Errors: NotFound, Invalid, Conflict, Denied.
func (s *Set) Move(ctx, into context.Context, from, to string, profiles []string) error {
	release, err := s.claim(into, to)
	if err != nil {
		return err
	}
	defer release()
	ctx, unlock, err := s.lock(ctx, from)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.stopped(ctx, from, "moved"); err != nil {
		return err
	}
	i, err := s.Get(ctx, from)
	if err != nil {
		return err
	}
	if profiles != nil {
		i.Config.Profiles = profiles
	}
	there, err := s.profiles(into)
	if err != nil {
		return err
	}
	for _, p := range i.Config.Profiles {
		if _, ok := there[p]; !ok {
			in := project.Name(into)
			return kiln.Errorf(kiln.NotFound, "Profile '%s' doesn't exist in project %q; make it there (kiln profile create %s "+
				"--project %s), or say which the instance shall have: -p default", p, in, p, in)
		}
	}
	if err := s.Check(into, i.Config); err != nil {
		return err
	}
	used, err := s.Use(into, i.Devices) // until a row of that project names them
	if err != nil {
		return err
	}
	defer used()
	list, err := s.db.SnapshotFiles(ctx, from)
	if err == nil {
		err = s.CheckArriving(into, len(list), "delete them first")
	}
	if err != nil {
		return err
	}
	var edits []func(*db.Instance) error
	if to != from {
		edits = append(edits, tellName)
	}
	if err := s.db.MoveInstance(ctx, into, from, to, i.Config.Profiles, edits...); err != nil {
		if errors.Is(err, kiln.Conflict) {
			return conflict(to)
		}
		return err
	}
	s.notify(into, Change{Name: to, Action: "renamed"})
	return nil
}

// stopped gives the row of an instance that must not run for what is planned.
func (s *Set) stopped(ctx context.Context, name, planned string) (db.Instance, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return r, err
	}
	l, err := s.look(r)
	if l != nil {
		return r, kiln.Errorf(kiln.Conflict, "instance %q is running and can't be %s; stop it first", name, planned)
	}
	if err != nil {
		return r, kiln.Errorf(kiln.Conflict, "instance %q can't be %s: %w", name, planned, err)
	}
	return r, nil
}

// look gives what runs of an instance whose files are to be worked with; nil when nothing
// does. The error is Conflict when processes of it run of which the daemon doesn't know.
func (s *Set) look(r db.Instance) (*live, error) {
	if l := s.running(r); l != nil {
		return l, nil
	}
	if pids := box.Processes(r.Config[UUIDKey]); len(pids) > 0 {
		return nil, kiln.Errorf(kiln.Conflict, "processes of it still run on this host, which the daemon can't reach: %v; "+
			"restart the daemon, which takes them over, or end them", pids)
	}
	return nil, nil
}

// Delete removes a stopped instance, its files and its snapshots; with the State of a Share,
// only if it is still what was shared. Errors: NotFound, Conflict.
func (s *Set) Delete(ctx context.Context, name, state string) error {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.stopped(ctx, name, "deleted")
	if err != nil {
		return err
	}
	if err := s.Deletable(ctx, name); err != nil {
		return err
	}
	if state != "" {
		if err := s.checkState(ctx, name, state); err != nil {
			return err
		}
	}
	return s.remove(ctx, r)
}

// checkState says whether an instance isn't any more what had a state. The error is Conflict.
func (s *Set) checkState(ctx context.Context, name, state string) error {
	i, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	now, err := s.state(ctx, i)
	if err == nil && now != state {
		err = kiln.Errorf(kiln.Conflict, "instance %q isn't what it was when it was copied: another one has its name now, "+
			"it was started, or its files, its configuration or its snapshots were changed", name)
	}
	return err
}

// Deletable says whether an instance is protected from being deleted. Errors: NotFound,
// Conflict.
func (s *Set) Deletable(ctx context.Context, name string) error {
	i, err := s.Get(ctx, name)
	if err != nil || !kiln.IsTrue(i.ExpandedConfig["security.protection.delete"]) {
		return err
	}
	return kiln.Errorf(kiln.Conflict, "Instance is protected from being deleted: allow it with: kiln config set %s "+
		"security.protection.delete=false", name)
}

// remove deletes the row first: files without a row are garbage, a row without
// files would be a lie.
func (s *Set) remove(ctx context.Context, r db.Instance) error {
	snapshots, err := s.db.SnapshotFiles(ctx, r.Name)
	if err != nil {
		return err
	}
	if err := s.db.DeleteInstance(ctx, r.Name); err != nil {
		return err
	}
	s.forgetCrashes(r.Config[UUIDKey])
	s.notify(ctx, Change{Name: r.Name, Action: "deleted"})
	err = s.pool.DeleteSnapshots(ctx, filesOf(snapshots)...)
	if uuid := r.Config[UUIDKey]; uuid != "" { // else the row was damaged, and a sweep has put the files away
		err = errors.Join(err, s.pool.Delete(ctx, uuid), os.RemoveAll(s.boxDir(r)))
		if s.Removed != nil {
			err = errors.Join(err, s.Removed(BackupsOf(r.Config)))
		}
	}
	return err
}
