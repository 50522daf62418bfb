package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/volume"
)

// exportsDir is where the backups of instances are below a daemon's directory.
const exportsDir = "exports"

// NewBackup says what backup to make.
type NewBackup struct {
	Name         string    // "": the next of backup0, backup1, …
	ExpiresAt    time.Time // zero: never
	InstanceOnly bool      // without the snapshots
	Compression  string    // as archive.ParseCompression reads it; "": as the setting says
}

// backupOwner gives the name by which the backups of an instance are kept. The error is NotFound.
func (d *Daemon) backupOwner(ctx context.Context, name string) (string, error) {
	i, err := d.instances.Get(ctx, name)
	return instance.BackupsOf(i.Options), err
}

// Backups gives the backups of an instance, oldest first. The error is NotFound.
func (d *Daemon) Backups(ctx context.Context, name string) ([]backup.Stored, error) {
	of, err := d.backupOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	return d.backups.List(of)
}

// AllBackups gives the backups of every instance, by instance.BackupsOf it.
func (d *Daemon) AllBackups() (map[string][]backup.Stored, error) { return d.backups.All() }

// Backup gives one backup. The error is NotFound.
func (d *Daemon) Backup(ctx context.Context, name, which string) (backup.Stored, error) {
	of, err := d.backupOwner(ctx, name)
	if err != nil {
		return backup.Stored{}, err
	}
	b, err := d.backups.Get(of, which)
	return b, noBackup(err, name, which)
}

// OpenBackup opens the tarball of a backup. The error is NotFound.
func (d *Daemon) OpenBackup(ctx context.Context, name, which string) (*os.File, error) {
	of, err := d.backupOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	f, err := d.backups.Open(of, which)
	if err == nil {
		d.tell(ctx, "instance-backup-retrieved", backupURL(name, which), nil)
	}
	return f, noBackup(err, name, which)
}

func noBackup(err error, name, which string) error {
	if errors.Is(err, kiln.NotFound) {
		return kiln.Errorf(kiln.NotFound, "instance %q has no backup %q", name, which)
	}
	return err
}

func backupURL(name, which string) string { return instanceURL(name) + "/backups/" + which }

// CreateBackup writes a backup of an instance, which may be running, and keeps it until
// it expires or is deleted. Its name is in the resources of the operation. Errors:
// NotFound, Invalid, Conflict; others are the operation's.
func (d *Daemon) CreateBackup(ctx context.Context, name string, n NewBackup) (*op.Operation, error) {
	of, err := d.backupOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	if n.Compression == "" {
		if n.Compression, err = d.setting(ctx, backupFormat); err != nil {
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
	if n.Name, err = d.backupName(of, n.Name); err != nil {
		return nil, err
	}
	return d.backupOp(ctx, "Backing up instance", name, n.Name, func(ctx context.Context, o *op.Operation) error {
		if err := d.writeBackup(ctx, o, name, of, n, c); err != nil {
			return err
		}
		d.tell(ctx, "instance-backup-created", backupURL(name, n.Name), nil)
		return nil
	}), nil
}

// backupName checks the name of a backup, or gives the next one that is free. Errors:
// Invalid, Conflict.
func (d *Daemon) backupName(of, name string) (string, error) {
	list, err := d.backups.List(of)
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, b := range list {
		taken[b.Name] = true
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
		return "", kiln.Errorf(kiln.Conflict, "Backup %q already exists", name)
	}
	return name, nil
}

// writeBackup keeps the instance as it is for as long as it takes to write that down.
func (d *Daemon) writeBackup(ctx context.Context, o *op.Operation, name, of string, n NewBackup,
	c archive.Compression) (err error) {
	kept, err := d.instances.Share(ctx, name, n.InstanceOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	b := backup.Stored{Name: n.Name, CreatedAt: time.Now().UTC(), ExpiresAt: n.ExpiresAt, InstanceOnly: n.InstanceOnly}
	if err := d.backups.Create(of, b, func(w io.Writer) error {
		return kept.Backup(ctx, &told{w: w, o: o}, c)
	}); err != nil {
		return err
	}
	owners, all, err := d.instances.BackupOwners(ctx)
	if all && !owners[of] { // with those that it had before
		err = errors.Join(kiln.Errorf(kiln.NotFound, "instance %q was deleted while it was backed up", name),
			d.backups.Delete(of, n.Name))
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

// backupOp runs f as an operation on a backup.
func (d *Daemon) backupOp(ctx context.Context, title, name, which string,
	f func(context.Context, *op.Operation) error) *op.Operation {
	r := instanceResources(name)
	r["backups"] = []string{"/1.0/backups/" + which} // of which clients take the last part
	r["instances_backups"] = []string{backupURL(name, which)}
	return d.Ops.Start(ctx, title, op.Options{Resources: r, MayCancel: true}, f)
}

// RenameBackup gives a backup another name. Errors: NotFound, Invalid, Conflict.
func (d *Daemon) RenameBackup(ctx context.Context, name, from, to string) (*op.Operation, error) {
	if _, err := d.Backup(ctx, name, from); err != nil {
		return nil, err
	}
	of, err := d.backupOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	if to == "" {
		return nil, kiln.Errorf(kiln.Invalid, "the new name of the backup is missing")
	}
	if to, err = d.backupName(of, to); err != nil {
		return nil, err
	}
	return d.backupOp(ctx, "Renaming instance backup", name, from, func(ctx context.Context, _ *op.Operation) error {
		if err := d.backups.Rename(of, from, to); err != nil {
			return noBackup(err, name, from)
		}
		d.tell(ctx, "instance-backup-renamed", backupURL(name, to), map[string]any{"old_name": from})
		return nil
	}), nil
}

// DeleteBackup removes a backup. The error is NotFound.
func (d *Daemon) DeleteBackup(ctx context.Context, name, which string) (*op.Operation, error) {
	if _, err := d.Backup(ctx, name, which); err != nil {
		return nil, err
	}
	of, err := d.backupOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	return d.backupOp(ctx, "Removing instance backup", name, which, func(ctx context.Context, _ *op.Operation) error {
		if err := d.backups.Delete(of, which); err != nil {
			return noBackup(err, name, which)
		}
		d.tell(ctx, "instance-backup-deleted", backupURL(name, which), nil)
		return nil
	}), nil
}

// keepBackups removes backups of instances whose time is over, until the daemon ends. Where
// they are may be on a server that doesn't answer: nobody may wait for this.
func (d *Daemon) keepBackups() {
	for d.nextMinute() {
		if err := d.sweepBackups(d.ctx, time.Now()); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Error("delete expired backups of instances", "err", err)
		}
	}
}

// sweepBackups removes the backups that have expired, and those of instances that have
// been gone for a week.
func (d *Daemon) sweepBackups(ctx context.Context, now time.Time) error {
	owners, all, err := d.instances.BackupOwners(ctx)
	if err != nil {
		return err
	}
	known := func(of string) bool { return owners[of] || !all } // those of a damaged row are anybody's
	return d.backups.Sweep(now, known, volume.LostTime)
}

// RestoreBackup makes an instance of a backup, all of it or nothing, while it is read.
// What the spec says of the instance goes over what the backup does; an option without a
// value isn't in its snapshots, either. The operation it gives is over.
func (d *Daemon) RestoreBackup(ctx context.Context, spec CreateSpec, r io.Reader) *op.Operation {
	var left int
	name, err := d.restoreBackup(ctx, spec, r, &left)
	return d.Ops.Start(ctx, "Restoring backup", op.Options{Resources: instanceResources(name)},
		func(_ context.Context, o *op.Operation) error {
			if left > 0 && err == nil {
				d.warn(o, fmt.Sprintf("%d device nodes 0:0 of instance %q were left out: overlayfs would take them for "+
					"deletions; they were of an overlay inside, whose programs have to fetch their layers again", left, name))
			}
			return err
		})
}

func (d *Daemon) restoreBackup(ctx context.Context, spec CreateSpec, r io.Reader, left *int) (name string, err error) {
	receiver, err := d.pool.Receive(nil)
	if err != nil {
		return spec.Name, err
	}
	defer receiver.Close()
	lim, err := d.limits(ctx)
	if err != nil {
		return spec.Name, err
	}
	lim.Room, lim.Entries = max(receiver.Room(), 1), lim.Entries*entriesPerBackup
	a := &arrival{spec: spec}
	var n instance.New
	release := func() {}
	defer func() { release() }()
	t, leftOut, err := instance.ReadBackup(ctx, r, lim, receiver, func(t *kiln.Transfer) (err error) {
		if a.spec.Name == "" {
			a.spec.Name = t.Name
		}
		if a.spec.Name, release, err = d.claim(ctx, a.spec.Name); err != nil {
			return err
		}
		n, err = d.planRestore(ctx, a, t)
		return err
	})
	if err != nil {
		return a.spec.Name, err
	}
	*left = leftOut
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	if err := d.instances.Receive(ctx, files, t, receiver, instance.WithoutBase); err != nil {
		return n.Name, err
	}
	return n.Name, d.instances.Create(ctx, n, files)
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
	n.Trigger, n.CreatedAt = trigger, t.CreatedAt
	return n, d.checkArrival(ctx, a, n)
}

func checkBackupFormat(v string) error {
	c, err := archive.ParseCompression(v)
	if err == nil && c.Name == "squashfs" {
		err = kiln.Errorf(kiln.Invalid, "a backup is a tarball, and isn't written as squashfs; choose another compression")
	}
	return err
}
