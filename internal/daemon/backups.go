package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// exportsDir is where the backups of instances and of storage volumes are below a daemon's
// directory.
const exportsDir = "exports"

// NewBackup says what backup to make.
type NewBackup struct {
	Name        string    // "": the next of backup0, backup1, …
	ExpiresAt   time.Time // zero: never
	Only        bool      // without the snapshots
	Compression string    // as archive.ParseCompression reads it; "": as the setting says
}

// Backups are those of one instance, or of one custom storage volume.
type Backups struct {
	d          *Daemon
	of         string // the UUID by which they are kept; "": there are none yet
	what, name string // "instance", "c1"
	url        string // of what they are of
	event      string // what the events about them begin with
	resources  map[string][]string
	key        string // under which a backup is among the resources of an operation

	// begin gives the UUID by which a first backup is to be kept. What is backed up keeps its
	// name until release is called.
	begin func() (of string, release func(), err error)
	// keep holds on to what is backed up, as it is now.
	keep func(ctx context.Context, only bool) (kept, error)
	// gone reports whether what was backed up isn't there any more. nil: it can't go meanwhile.
	gone func(ctx context.Context) (bool, error)
}

// kept is an instance or a storage volume as it was at one moment.
type kept interface {
	Backup(ctx context.Context, w io.Writer, c archive.Compression, visit *archive.Visit) error
	Close() error
}

// InstanceBackups gives the backups of an instance. The error is NotFound.
func (d *Daemon) InstanceBackups(ctx context.Context, name string) (Backups, error) {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return Backups{}, err
	}
	of := instance.BackupsOf(i.Options)
	return Backups{d: d, of: of, what: "instance", name: name, url: instanceURL(name), event: "instance-backup-",
		resources: instanceResources(name), key: "instances_backups",
		begin: func() (string, func(), error) { return of, func() {}, nil }, // keep says which is meant
		keep: func(ctx context.Context, only bool) (kept, error) {
			return d.instances.Share(instance.Meaning(ctx, i), name, only)
		},
		gone: func(ctx context.Context) (bool, error) {
			owners, all, err := d.instances.BackupOwners(ctx)
			return all && !owners[of], err
		},
	}, nil
}

// AllBackups gives the backups of every instance, by instance.BackupsOf it.
func (d *Daemon) AllBackups() (map[string][]backup.Stored, error) { return d.backups.All() }

// List gives the backups, oldest first.
func (b Backups) List() ([]backup.Stored, error) {
	if b.of == "" {
		return nil, nil
	}
	return b.d.backups.List(b.of)
}

// Get gives one backup. The error is NotFound.
func (b Backups) Get(which string) (backup.Stored, error) {
	s, err := b.d.backups.Get(b.of, which)
	return s, b.missing(err, which)
}

// Open opens the tarball of a backup. The error is NotFound.
func (b Backups) Open(ctx context.Context, which string) (*os.File, error) {
	f, err := b.d.backups.Open(b.of, which)
	if err == nil {
		b.tell(ctx, "retrieved", which, nil)
	}
	return f, b.missing(err, which)
}

func (b Backups) missing(err error, which string) error {
	if errors.Is(err, kiln.NotFound) {
		return kiln.Errorf(kiln.NotFound, "%s %q has no backup %q", b.what, b.name, which)
	}
	return err
}

func (b Backups) tell(ctx context.Context, action, which string, details map[string]any) {
	b.d.tell(ctx, b.event+action, b.urlOf(which), details)
}

func (b Backups) urlOf(which string) string { return b.url + "/backups/" + which }

// Create writes a backup, also of what is in use, and keeps it until it expires or is
// deleted. Its name is in the resources of the operation. Errors: Denied when the project
// doesn't allow it, Invalid, Conflict; others are the operation's.
func (b Backups) Create(ctx context.Context, n NewBackup) (*op.Operation, error) {
	err := b.d.instances.CheckKeeping(ctx, instance.Backups)
	if err != nil {
		return nil, err
	}
	if n.Compression == "" {
		if n.Compression, err = b.d.setting(ctx, backupFormat); err != nil {
			return nil, err
		}
	}
	if err := checkBackupFormat(n.Compression); err != nil {
		return nil, err
	}
	c, err := archive.ParseCompression(n.Compression)
	if err != nil {
		return nil, err
	}
	if !n.ExpiresAt.IsZero() && n.ExpiresAt.Before(time.Now()) {
		return nil, kiln.Errorf(kiln.Invalid, "the backup would have expired at %s, which is past",
			n.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if n.Name, err = b.newName(n.Name); err != nil {
		return nil, err
	}
	var release func()
	if b.of, release, err = b.begin(); err != nil {
		return nil, err
	}
	return b.op(ctx, "Backing up "+b.what, n.Name, func(ctx context.Context, o *op.Operation) error {
		defer release()
		if err := b.write(ctx, o, n, c); err != nil {
			return err
		}
		b.tell(ctx, "created", n.Name, nil)
		return nil
	}), nil
}

// newName checks the name of a backup, or gives the next one that is free. Errors: Invalid,
// Conflict.
func (b Backups) newName(name string) (string, error) {
	list, err := b.List()
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, s := range list {
		taken[s.Name] = true
	}
	for n := 0; name == ""; n++ {
		if next := "backup" + strconv.Itoa(n); !taken[next] {
			name = next
		}
	}
	if err := kiln.CheckSnapshotName(name); err != nil {
		return "", kiln.Errorf(kiln.Invalid, "%q can't name a backup: %w", name, err)
	}
	if taken[name] {
		return "", kiln.Errorf(kiln.Conflict, "Backup %q already exists; give another name", name)
	}
	return name, nil
}

// write keeps what is backed up as it is for as long as it takes to write that down.
func (b Backups) write(ctx context.Context, o *op.Operation, n NewBackup, c archive.Compression) (err error) {
	visit, err := b.d.share(ctx)
	if err != nil {
		return err
	}
	defer visit.Leave()
	k, err := b.keep(ctx, n.Only)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	s := backup.Stored{Name: n.Name, CreatedAt: time.Now().UTC(), ExpiresAt: n.ExpiresAt, Only: n.Only}
	err = b.d.backups.Create(b.of, s, func(w io.Writer) error { return k.Backup(ctx, &told{w: w, o: o}, c, visit) })
	if err != nil || b.gone == nil {
		return err
	}
	gone, err := b.gone(ctx)
	if gone { // with the backups that it had before
		err = errors.Join(kiln.Errorf(kiln.NotFound, "%s %q was deleted while it was backed up", b.what, b.name),
			b.d.backups.Delete(b.of, n.Name))
	}
	return err
}

// told says how much of a backup is written.
type told struct {
	w    io.Writer
	o    *op.Operation
	n    int64
	last time.Time
}

// Write implements io.Writer.
func (t *told) Write(b []byte) (int, error) {
	n, err := t.w.Write(b)
	t.n += int64(n)
	if now := time.Now(); now.Sub(t.last) > 300*time.Millisecond {
		t.last = now
		t.o.Set("create_backup_progress", "backup: "+kiln.FormatSize(t.n))
	}
	return n, err
}

// op runs f as an operation on a backup.
func (b Backups) op(ctx context.Context, title, which string,
	f func(context.Context, *op.Operation) error) *op.Operation {
	r := maps.Clone(b.resources)
	r["backups"] = []string{"/1.0/backups/" + which} // of which clients take the last part
	r[b.key] = []string{b.urlOf(which)}
	return b.d.Ops.Start(ctx, title, op.Options{Resources: r, MayCancel: true}, f)
}

// Rename gives a backup another name. Errors: NotFound, Invalid, Conflict.
func (b Backups) Rename(ctx context.Context, from, to string) (*op.Operation, error) {
	if _, err := b.Get(from); err != nil {
		return nil, err
	}
	if to == "" {
		return nil, kiln.Errorf(kiln.Invalid, "the new name of the backup is missing")
	}
	to, err := b.newName(to)
	if err != nil {
		return nil, err
	}
	return b.op(ctx, "Renaming "+b.what+" backup", from, func(ctx context.Context, _ *op.Operation) error {
		if err := b.d.backups.Rename(b.of, from, to); err != nil {
			return b.missing(err, from)
		}
		b.tell(ctx, "renamed", to, map[string]any{"old_name": from})
		return nil
	}), nil
}

// Delete removes a backup. The error is NotFound.
func (b Backups) Delete(ctx context.Context, which string) (*op.Operation, error) {
	if _, err := b.Get(which); err != nil {
		return nil, err
	}
	return b.op(ctx, "Removing "+b.what+" backup", which, func(ctx context.Context, _ *op.Operation) error {
		if err := b.d.backups.Delete(b.of, which); err != nil {
			return b.missing(err, which)
		}
		b.tell(ctx, "deleted", which, nil)
		return nil
	}), nil
}

// keepBackups removes backups whose time is over, until the daemon ends. Where
// they are may be on a server that doesn't answer: nobody may wait for this.
func (d *Daemon) keepBackups() {
	for d.nextMinute() {
		if err := d.sweepBackups(d.ctx, time.Now()); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Error("delete expired backups", "err", err)
		}
	}
}

// sweepBackups removes the backups that have expired, and those of whoever has been gone for
// a week.
func (d *Daemon) sweepBackups(ctx context.Context, now time.Time) error {
	owners, all, err := d.instances.BackupOwners(ctx)
	if err != nil {
		return err
	}
	of, allVolumes, err := d.pool.CustomBackups()
	if err != nil {
		return err
	}
	// Those of whoever is damaged are anybody's.
	known := func(id string) bool { return owners[id] || of[id] || !all || !allVolumes }
	return d.backups.Sweep(now, known, volume.LostTime)
}

// RestoreBackup makes an instance of a backup, all of it or nothing, while it is read.
// What the spec says of the instance goes over what the backup does; an option without a
// value isn't in its snapshots, either. Devices that would reach this host are left out,
// unless the spec wants them: whoever made the archive isn't asked, also where who brings
// it may do anything. The operation it gives is over.
func (d *Daemon) RestoreBackup(ctx context.Context, spec CreateSpec, r io.Reader) *op.Operation {
	var left leftOut
	name, err := d.restoreBackup(ctx, spec, r, &left)
	return d.Ops.Start(ctx, "Restoring backup", op.Options{Resources: instanceResources(name)},
		func(ctx context.Context, o *op.Operation) error {
			if err != nil {
				return err
			}
			var said []string
			if left.nodes > 0 {
				said = append(said, fmt.Sprintf("%d device nodes 0:0 of instance %q were left out: overlayfs would take them for "+
					"deletions; they were of an overlay inside, whose programs have to fetch their layers again", left.nodes, name))
			}
			if len(left.devices) > 0 {
				text := fmt.Sprintf("instance %q was imported without what would give it access to this host: %s; add what it "+
					"should have (kiln config device add), or delete and import it again: kiln import --host-access", name,
					strings.Join(left.devices, ", "))
				said = append(said, text)
				// Not every client shows what an operation warns of.
				d.outcome(devicesLeftOut, db.Subject{Instance: db.Name{Project: project.Name(ctx), Name: name}}, errors.New(text))
			}
			if said = append(said, left.addresses...); len(said) > 0 {
				d.warn(o, strings.Join(said, "; "))
			}
			return nil
		})
}

// leftOut is what an instance hasn't got that its backup has.
type leftOut struct {
	nodes   int      // device nodes
	devices []string // and devices that would reach this host, also of its snapshots

	addresses []string // what is said of hardware addresses that others have
}

// withoutHost takes the devices out of what a backup says that would reach this host, and
// tells which they were.
func withoutHost(t *kiln.Transfer) []string {
	var list []string
	take := func(prefix string, devices map[string]map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(devices)) {
			if what := instance.HostAccess(nil, map[string]map[string]string{name: devices[name]}); len(what) > 0 {
				list = append(list, prefix+what[0])
				delete(devices, name)
			}
		}
	}
	take("", t.Devices)
	for _, s := range t.Snapshots {
		take("snapshot "+s.Name+": ", s.Devices)
	}
	return list
}

func (d *Daemon) restoreBackup(ctx context.Context, spec CreateSpec, r io.Reader, left *leftOut) (name string,
	err error) {
	receiver, err := d.pool.Receive(nil)
	if err != nil {
		return spec.Name, err
	}
	defer receiver.Close()
	lim, err := d.sharedLimits(ctx)
	if err != nil {
		return spec.Name, err
	}
	defer lim.Visit.Leave()
	lim.Room, lim.Entries = max(receiver.Room(), 1), lim.Entries*entriesPerBackup
	a := &arrival{spec: spec}
	var n instance.New
	release, unused := func() {}, func() {}
	defer func() { unused(); release() }()
	t, nodes, err := instance.ReadBackup(ctx, r, lim, receiver, func(t *kiln.Transfer) (err error) {
		if a.spec.Name == "" {
			a.spec.Name = t.Name
		}
		if a.spec.Name, release, err = d.claim(ctx, a.spec.Name); err != nil {
			return err
		}
		if err := d.instances.CheckArriving(ctx, len(t.Snapshots), "kiln export --instance-only"); err != nil {
			return err
		}
		// A restricted client is refused instead: what is left out isn't for it to know.
		if !a.spec.Source.HostAccess && !instance.IsRestricted(ctx) {
			left.devices = withoutHost(t)
		}
		if n, err = d.planRestore(ctx, a, t); err != nil {
			return err
		}
		used, err := d.instances.Use(ctx, n.Devices) // while the files come
		if err == nil {
			unused = used
		}
		return err
	})
	if err != nil {
		return a.spec.Name, err
	}
	left.nodes = nodes
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	if err := d.instances.Receive(ctx, files, t, receiver, instance.WithoutBase); err != nil {
		return n.Name, err
	}
	left.addresses, err = d.instances.Create(ctx, n, files)
	return n.Name, err
}

// entriesPerBackup is how many times the files of an image a backup may have: those of
// the instance, and of its snapshots.
const entriesPerBackup = 4

// claim is instance.Set's, and gives a function to call also with an error.
func (d *Daemon) claim(ctx context.Context, name string) (string, func(), error) {
	got, release, err := d.instances.Claim(ctx, name)
	if err != nil {
		return name, func() {}, err
	}
	return got, release, nil
}

// planRestore says what the instance is to be, and whether it can be here.
func (d *Daemon) planRestore(ctx context.Context, a *arrival, t *kiln.Transfer) (instance.New, error) {
	trigger := t.Trigger
	if trigger == "" && a.spec.Name != t.Name {
		trigger = "copy" // in its files is still the other name
	}
	for i := range t.Snapshots {
		s := &t.Snapshots[i]
		if s.Trigger == "" {
			s.Trigger = trigger
		}
		for k, v := range a.spec.Options {
			if v == "" {
				delete(s.Config, k)
			}
		}
	}
	a.Transfer = *t
	n := a.plan()
	for k, v := range instance.Addresses(t.Config) {
		if _, ok := a.spec.Options[k]; !ok {
			n.Options[k] = v
		}
	}
	n.Trigger, n.CreatedAt = trigger, t.CreatedAt
	return n, d.checkArrival(ctx, a, n)
}

func checkBackupFormat(v string) error {
	const squashfs = "squashfs" // an image can be one; a backup is a tarball
	name, _, _ := strings.Cut(strings.TrimSpace(v), " ")
	if name == squashfs || !slices.Contains(archive.Compressions, name) {
		fit := slices.DeleteFunc(slices.Clone(archive.Compressions), func(name string) bool { return name == squashfs })
		return kiln.Errorf(kiln.Invalid, "Invalid compression algorithm %q: a backup is a tarball, for which it is one of %s",
			v, strings.Join(fit, ", "))
	}
	_, err := archive.ParseCompression(v)
	return err
}
