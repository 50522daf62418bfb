package daemon

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// Snapshots gives the snapshots of an instance, oldest first. The error is
// NotFound.
func (d *Daemon) Snapshots(ctx context.Context, instance string) ([]instance.Snapshot, error) {
	return d.instances.Snapshots(ctx, instance)
}

// AllSnapshots gives the snapshots of one instance, or for "" of every instance of the
// projects that ctx is about. The error is NotFound.
func (d *Daemon) AllSnapshots(ctx context.Context, instance string) (*instance.AllSnapshots, error) {
	return d.instances.AllSnapshots(ctx, instance)
}

// Snapshot gives one snapshot. The error is NotFound.
func (d *Daemon) Snapshot(ctx context.Context, instance, name string) (instance.Snapshot, error) {
	return d.instances.Snapshot(ctx, instance, name)
}

// CreateSnapshot makes a snapshot of an instance. Without a name it gets the next
// one of the instance's pattern; the name is in the operation's resources.
// Errors: NotFound, Invalid, Conflict; others are the operation's.
func (d *Daemon) CreateSnapshot(ctx context.Context, name string, n instance.NewSnapshot) (*op.Operation, error) {
	if err := d.instances.CheckKeeping(ctx, instance.Snapshots); err != nil {
		return nil, err
	}
	ctx, err := d.instances.Meaning(ctx, name, "")
	if err != nil {
		return nil, err
	}
	if n.Name == "" {
		if n.Name, err = d.instances.SnapshotName(ctx, name); err != nil {
			return nil, err
		}
	}
	if err := d.instances.CheckSnapshot(ctx, name, n.Name); err != nil {
		return nil, err
	}
	return d.snapshotOp(ctx, "Snapshotting instance", name, n.Name, func(ctx context.Context) error {
		return d.instances.CreateSnapshot(ctx, name, n)
	}), nil
}

// RenameSnapshot gives a snapshot another name. Errors: NotFound, Invalid, Conflict;
// others are the operation's.
func (d *Daemon) RenameSnapshot(ctx context.Context, name, from, to string) (*op.Operation, error) {
	ctx, err := d.instances.Meaning(ctx, name, from)
	if err != nil {
		return nil, err
	}
	if err := d.instances.CheckSnapshot(ctx, name, to); err != nil {
		return nil, err
	}
	return d.snapshotOp(ctx, "Renaming snapshot", name, from, func(ctx context.Context) error {
		return d.instances.RenameSnapshot(ctx, name, from, to)
	}), nil
}

// SetSnapshotExpiry changes when a snapshot goes, in one transaction; zero: never.
// Errors: NotFound, and those of change.
func (d *Daemon) SetSnapshotExpiry(ctx context.Context, name, snap string,
	change func(time.Time) (time.Time, error)) (*op.Operation, error) {
	if err := d.instances.SetSnapshotExpiry(ctx, name, snap, change); err != nil {
		return nil, err
	}
	return d.snapshotOp(ctx, "Updating snapshot", name, snap, func(context.Context) error { return nil }), nil
}

// DeleteSnapshot removes a snapshot. Errors: NotFound; others are the operation's.
func (d *Daemon) DeleteSnapshot(ctx context.Context, name, snap string) (*op.Operation, error) {
	ctx, err := d.instances.Meaning(ctx, name, snap)
	if err != nil {
		return nil, err
	}
	s, err := d.instances.Snapshot(ctx, name, snap)
	if err != nil {
		return nil, err
	}
	return d.snapshotOp(ctx, "Deleting snapshot", name, snap, func(ctx context.Context) error {
		return errors.Join(d.instances.DeleteSnapshot(ctx, name, snap), d.dropTree(s.Base))
	}), nil
}

// RestoreSnapshot makes an instance what it was at a snapshot, "snap0" or
// "c1/snap0". Errors: NotFound, Invalid; others are the operation's.
func (d *Daemon) RestoreSnapshot(ctx context.Context, name, snap string) (*op.Operation, error) {
	if of, rest, ok := strings.Cut(snap, "/"); ok {
		if of != name {
			return nil, kiln.Errorf(kiln.Invalid, "instance %q can't be restored from %q, which is a snapshot of another; "+
				"copy that one: kiln copy %s NEW", name, snap, snap)
		}
		snap = rest
	}
	ctx, err := d.instances.Meaning(ctx, name, snap)
	if err != nil {
		return nil, err
	}
	return d.instanceOp(ctx, "Restoring snapshot", name, func(ctx context.Context) error {
		return d.leavingTrees(ctx, name, func() error { return d.instances.Restore(ctx, name, snap) })
	})
}

// snapshotOp runs f as an operation on a snapshot.
func (d *Daemon) snapshotOp(ctx context.Context, title, name, snap string,
	f func(context.Context) error) *op.Operation {
	r := instanceResources(name)
	r["instances_snapshots"] = []string{snapshotURL(name, snap)}
	r["containers_snapshots"] = []string{"/1.0/containers/" + name + "/snapshots/" + snap}
	return d.Ops.Start(ctx, title, op.Options{Resources: r, MayCancel: true}, func(ctx context.Context,
		_ *op.Operation) error {
		return f(ctx)
	})
}

func snapshotURL(name, snap string) string { return instanceURL(name) + "/snapshots/" + snap }

// everyMinute makes the snapshots that are due and deletes those whose time is
// over, at the beginning of every minute.
func (d *Daemon) everyMinute() {
	last := time.Now()
	for {
		if !d.nextMinute() {
			return
		}
		now := time.Now()
		d.keepSnapshots(last, now)
		last = now
		if d.withheld.Load() {
			d.tellWithheld()
		}
		d.scrubIfDue(now)
		if err := d.expireVolumeSnapshots(d.ctx, now); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Error("delete expired snapshots of storage volumes", "err", err)
		}
	}
}

// nextMinute waits for the beginning of the next minute, and reports whether the daemon
// lasts until then.
func (d *Daemon) nextMinute() bool {
	now := time.Now()
	select {
	case <-time.After(now.Truncate(time.Minute).Add(time.Minute).Sub(now)):
		return true
	case <-d.ctx.Done():
		return false
	}
}

// keepSnapshots does what was due after from and not after to.
func (d *Daemon) keepSnapshots(from, to time.Time) {
	if err := d.instances.SnapshotDue(d.ctx, from, to); err != nil && d.ctx.Err() == nil {
		d.cfg.Log.Error("make scheduled snapshots", "err", err)
	}
	images, err := d.instances.ExpireSnapshots(d.ctx, to)
	for _, fp := range images {
		err = errors.Join(err, d.dropTree(fp))
	}
	if err != nil && d.ctx.Err() == nil {
		d.cfg.Log.Error("delete expired snapshots", "err", err)
	}
}
