package daemon

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A NewVolumeSnapshot says what snapshot of a storage volume to make.
type NewVolumeSnapshot struct {
	Name      string     // "": the next of snap0, snap1, …
	ExpiresAt *time.Time // nil: as snapshots.expiry of the volume says; zero: never
}

// VolumeSnapshots gives the snapshots of a custom storage volume, oldest first. The error is
// NotFound.
func (d *Daemon) VolumeSnapshots(ctx context.Context, name string) ([]volume.CustomSnapshot, error) {
	n, err := volumeIn(ctx, name)
	if err == nil {
		_, err = d.pool.Custom(n)
	}
	if err != nil {
		return nil, err
	}
	return d.pool.CustomSnapshots(n)
}

// SnapshotsOf gives the snapshots of a volume that was listed.
func (d *Daemon) SnapshotsOf(v Volume) ([]volume.CustomSnapshot, error) {
	return d.pool.CustomSnapshots(v.CustomName)
}

// VolumeSnapshot gives one snapshot. The error is NotFound.
func (d *Daemon) VolumeSnapshot(ctx context.Context, name, snap string) (volume.CustomSnapshot, error) {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return volume.CustomSnapshot{}, err
	}
	return d.pool.CustomSnapshot(n, snap)
}

// holdUsers gives what holds those instances still that have a volume at that moment, in a
// project, and run; with stopped, none may.
func (d *Daemon) holdUsers(in context.Context, name string, stopped bool) volume.Pause {
	return func(ctx context.Context) (func() error, error) {
		v, err := d.Volume(project.Like(ctx, in), name)
		if err != nil {
			return nil, err
		}
		return d.instances.HoldAll(ctx, v.Instances, stopped)
	}
}

// CreateVolumeSnapshot keeps the files of a custom storage volume as they are. Instances that
// run and have it stand still for a moment. Errors: NotFound, Denied when the project doesn't
// allow it, Invalid, Conflict; others are the operation's.
func (d *Daemon) CreateVolumeSnapshot(ctx context.Context, name string, s NewVolumeSnapshot) (*op.Operation, error) {
	if err := d.instances.CheckKeeping(ctx, instance.Snapshots); err != nil {
		return nil, err
	}
	v, claim, err := d.claimVolume(ctx, name)
	if err != nil {
		return nil, err
	}
	defer claim.unlessKept()
	if s.Name == "" {
		list, err := d.pool.CustomSnapshots(v.CustomName)
		if err != nil {
			return nil, err
		}
		var names []string
		for _, other := range list {
			names = append(names, other.Name)
		}
		s.Name = instance.NextSnapshotName(names)
	}
	if err := d.freeVolumeSnapshot(v.CustomName, s.Name); err != nil {
		return nil, err
	}
	at := time.Now().UTC()
	if s.ExpiresAt == nil {
		expires, err := kiln.ParseExpiry(v.Config["snapshots.expiry"], at)
		if err != nil {
			return nil, err
		}
		s.ExpiresAt = &expires
	}
	const title = "Snapshotting storage volume"
	release := claim.keep()
	return d.volumeSnapshotOp(ctx, title, name, s.Name, func(ctx context.Context) error {
		defer release()
		hold := d.holdUsers(ctx, name, false)
		if err := d.pool.SnapshotCustom(ctx, v.CustomName, s.Name, at, s.ExpiresAt.UTC(), hold); err != nil {
			return err
		}
		d.tell(ctx, "storage-volume-snapshot-created", volumeSnapshotURL(name, s.Name), nil)
		return nil
	}), nil
}

// freeVolumeSnapshot says whether a snapshot can have a name. Errors: Invalid, Conflict.
func (d *Daemon) freeVolumeSnapshot(n volume.CustomName, snap string) error {
	if err := kiln.CheckSnapshotName(snap); err != nil {
		return err
	}
	_, err := d.pool.CustomSnapshot(n, snap)
	switch {
	case errors.Is(err, kiln.NotFound):
		return nil
	case err != nil:
		return err
	}
	return n.SnapshotExists(snap)
}

// UpdateVolumeSnapshot changes the description of a snapshot and when it expires. Errors:
// NotFound, Invalid, Integrity, and change's.
func (d *Daemon) UpdateVolumeSnapshot(ctx context.Context, name, snap string,
	change func(*volume.CustomSnapshot) error) error {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	err = d.pool.EditCustomSnapshot(n, snap, func(s *volume.CustomSnapshot) error {
		if err := change(s); err != nil {
			return err
		}
		return checkVolume(s.CustomState)
	})
	if err == nil {
		d.tell(ctx, "storage-volume-snapshot-updated", volumeSnapshotURL(name, snap), nil)
	}
	return err
}

// RenameVolumeSnapshot gives a snapshot another name. Errors: NotFound, Invalid, Conflict.
func (d *Daemon) RenameVolumeSnapshot(ctx context.Context, name, from, to string) error {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	if err := d.pool.RenameCustomSnapshot(n, from, to); err != nil {
		return err
	}
	d.tell(ctx, "storage-volume-snapshot-renamed", volumeSnapshotURL(name, to), map[string]any{"old_name": from})
	return nil
}

// DeleteVolumeSnapshot removes a snapshot. Errors: NotFound, Conflict while it is copied.
func (d *Daemon) DeleteVolumeSnapshot(ctx context.Context, name, snap string) error {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	if err := d.pool.DeleteCustomSnapshot(n, snap); err != nil {
		return err
	}
	d.tell(ctx, "storage-volume-snapshot-deleted", volumeSnapshotURL(name, snap), nil)
	return nil
}

// RestoreVolume gives a custom storage volume the files of a snapshot, if check lets what is
// said of it pass. No instance that runs may have it. Errors: NotFound, Conflict, Integrity,
// and check's.
func (d *Daemon) RestoreVolume(ctx context.Context, name, snap string, check func(volume.CustomState) error) error {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	if err := d.pool.RestoreCustom(ctx, n, snap, check, d.holdUsers(ctx, name, true)); err != nil {
		return err
	}
	d.tell(ctx, "storage-volume-restored", volumeURL(name), map[string]any{"snapshot": snap})
	return nil
}

// A VolumeCopy says what custom storage volume to make of another.
type VolumeCopy struct {
	From     string // the other …
	Snapshot string // … or this one of its snapshots
	Project  string // that it is in; "": the one that ctx is about
	Only     bool   // without the snapshots of the other
}

// CopyVolume makes a custom storage volume of another, with what is said of it. A value that
// s doesn't have is the other's. Errors: NotFound, Invalid, Unsupported, Conflict, Integrity;
// others are the operation's.
func (d *Daemon) CopyVolume(ctx context.Context, name string, s volume.CustomState, c VolumeCopy) (*op.Operation,
	error) {
	to, err := volumeIn(ctx, name)
	if err != nil {
		return nil, err
	}
	in := ctx
	if c.Project != "" {
		if in, err = d.In(ctx, c.Project); err != nil {
			return nil, err
		}
	}
	from, claim, err := d.claimVolume(in, c.From)
	if err != nil {
		return nil, err
	}
	defer claim.unlessKept()
	if c.Snapshot != "" {
		if _, err := d.pool.CustomSnapshot(from.CustomName, c.Snapshot); err != nil {
			return nil, err
		}
	}
	if c.Snapshot == "" && !c.Only {
		list, err := d.pool.CustomSnapshots(from.CustomName)
		if err == nil {
			err = d.instances.CheckArriving(ctx, len(list), "--volume-only")
		}
		if err != nil {
			return nil, err
		}
	}
	if s.Config = withoutEmpty(s.Config); len(s.Config) == 0 && s.Description == "" {
		s.Config, s.Description = from.Config, from.Description
	}
	if err := checkVolume(s); err != nil {
		return nil, err
	}
	if err := d.freeVolume(to); err != nil {
		return nil, err
	}
	s.CreatedAt = time.Now().UTC()
	resources := map[string][]string{"storage_volumes": {volumeURL(name)}}
	release := claim.keep()
	return d.Ops.Start(ctx, "Copying storage volume", op.Options{Resources: resources, MayCancel: true}, func(
		ctx context.Context, _ *op.Operation) error {
		defer release()
		hold := d.holdUsers(in, c.From, false)
		if err := d.pool.CopyCustom(ctx, from.CustomName, c.Snapshot, to, s, !c.Only, hold); err != nil {
			return err
		}
		return d.arrived(ctx, to)
	}), nil
}

// volumeSnapshotOp runs f as an operation on a snapshot.
func (d *Daemon) volumeSnapshotOp(ctx context.Context, title, name, snap string,
	f func(context.Context) error) *op.Operation {
	r := map[string][]string{"storage_volumes": {volumeURL(name)},
		"storage_volume_snapshots": {volumeSnapshotURL(name, snap)}}
	return d.Ops.Start(ctx, title, op.Options{Resources: r, MayCancel: true}, func(ctx context.Context,
		_ *op.Operation) error {
		return f(ctx)
	})
}

func volumeSnapshotURL(name, snap string) string {
	return volumeURL(name) + "/snapshots/" + url.PathEscape(snap)
}

// expireVolumeSnapshots deletes the snapshots of storage volumes whose time is over. One that
// is in use waits for the next time.
func (d *Daemon) expireVolumeSnapshots(ctx context.Context, now time.Time) error {
	ins, err := d.pool.CustomIns()
	if err != nil {
		return err
	}
	var errs []error
	for _, in := range ins {
		names, err := d.pool.CustomNames(in)
		errs = append(errs, err)
		for _, name := range names {
			n := volume.CustomName{In: in, Name: name}
			list, err := d.pool.CustomSnapshots(n)
			errs = append(errs, err)
			for _, s := range list {
				if !s.Expired(now) {
					continue
				}
				// By now it may be another one of that name.
				if err := d.pool.ExpireCustomSnapshot(n, s.Name, now); !errors.Is(err, kiln.Conflict) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}
