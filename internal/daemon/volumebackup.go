package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// VolumeBackups gives the backups of a custom storage volume. The error is NotFound.
func (d *Daemon) VolumeBackups(ctx context.Context, name string) (Backups, error) {
	v, err := d.Volume(ctx, name)
	if err != nil {
		return Backups{}, err
	}
	n := v.CustomName
	return Backups{d: d, of: v.Backups, what: "storage volume", name: name, url: volumeURL(name),
		event: "storage-volume-backup-", resources: map[string][]string{"storage_volumes": {volumeURL(name)}},
		key: "storage_volume_backups",
		begin: func() (of string, release func(), err error) {
			if release, err = d.pool.UseCustom(n); err != nil {
				return "", nil, err
			}
			err = d.pool.EditCustom(n, func(s *volume.CustomState) error {
				if !s.CreatedAt.Equal(v.CreatedAt) || v.Backups != "" && s.Backups != v.Backups {
					return n.Another()
				}
				s.Backups = cmp.Or(s.Backups, uuid.NewString())
				of = s.Backups
				return nil
			})
			if err != nil {
				release()
			}
			return of, release, err
		},
		keep: func(ctx context.Context, only bool) (kept, error) {
			return d.pool.KeepCustom(ctx, n, !only, d.holdUsers(ctx, name, false))
		},
	}, nil
}

// ImportVolume makes a custom storage volume of a backup, all of it or nothing, while it is
// read. A name goes over what the backup says. What the backup says that volumes can't have
// here is left out, with a warning. The operation it gives is over.
func (d *Daemon) ImportVolume(ctx context.Context, name string, r io.Reader) *op.Operation {
	a := &arrivingVolume{name: name, left: map[string]bool{}}
	err := d.importVolume(ctx, a, r)
	return d.Ops.Start(ctx, "Importing storage volume", op.Options{
		Resources: map[string][]string{"storage_volumes": {volumeURL(a.name)}},
	}, func(_ context.Context, o *op.Operation) error {
		if len(a.left) > 0 && err == nil {
			d.warn(o, fmt.Sprintf("storage volume %q: what its backup says of %s was left out: storage volumes have no such "+
				"keys here, or not with these values", a.name, some(slices.Sorted(maps.Keys(a.left)))))
		}
		return err
	})
}

// arrivingVolume is a volume that a backup is read for.
type arrivingVolume struct {
	name      string // "": the backup says it
	state     volume.CustomState
	snapshots []volume.CustomSnapshot
	left      map[string]bool // keys that were left out
}

func (d *Daemon) importVolume(ctx context.Context, a *arrivingVolume, r io.Reader) error {
	receiver, err := d.pool.Receive(nil)
	if err != nil {
		return err
	}
	defer receiver.Close()
	lim, err := d.sharedLimits(ctx)
	if err != nil {
		return err
	}
	defer lim.Visit.Leave()
	lim.Room, lim.Entries = max(receiver.Room(), 1), lim.Entries*entriesPerBackup
	var n volume.CustomName
	if err := receiver.ReadCustomBackup(ctx, r, lim, func(b backup.Volume) error {
		a.name = cmp.Or(a.name, b.Name)
		if n, err = volumeIn(ctx, a.name); err != nil {
			return err
		}
		if err := d.freeVolume(n); err != nil { // before all of it came
			return err
		}
		if err := d.instances.CheckArriving(ctx, len(b.Snapshots), "kiln storage volume export --volume-only"); err != nil {
			return err
		}
		return a.plan(b, time.Now().UTC())
	}); err != nil {
		return err
	}
	if err := receiver.CommitCustom(ctx, n, a.state, a.snapshots); err != nil {
		return err
	}
	return d.arrived(ctx, n)
}

// freeVolume says whether a volume can have a name. Errors: Invalid, Conflict.
func (d *Daemon) freeVolume(n volume.CustomName) error {
	_, err := d.pool.Custom(n)
	switch {
	case errors.Is(err, kiln.NotFound):
		return nil
	case err != nil:
		return err
	}
	return n.Taken()
}

// arrived is done with a volume that took its time to make: its project may be gone, or have
// its volumes elsewhere by now.
func (d *Daemon) arrived(ctx context.Context, n volume.CustomName) error {
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	if err := d.stillIn(ctx, n); err != nil {
		return errors.Join(err, d.pool.DeleteCustom(n, nil))
	}
	d.tell(ctx, "storage-volume-created", volumeURL(n.Name), nil)
	return nil
}

// stillIn makes sure that the volumes of the project that ctx is about are where they were
// when n was named. It is called with volumeNames held. Errors: NotFound, Conflict.
func (d *Daemon) stillIn(ctx context.Context, n volume.CustomName) error {
	if _, err := d.db.Project(ctx, n.In); err != nil { // deleted a moment ago
		return err
	}
	p, err := d.db.Scope(ctx, project.Name(ctx))
	if err == nil && p.Volumes != n.In {
		err = kiln.Errorf(kiln.Conflict, "project %q was changed meanwhile, and has its storage volumes elsewhere now; try "+
			"again", p.Name)
	}
	return err
}

// plan says what the volume is to be, of what a backup says. Errors: Invalid, TooLarge.
func (a *arrivingVolume) plan(b backup.Volume, now time.Time) (err error) {
	if a.state, err = a.stateOf(b, now); err != nil {
		return err
	}
	for _, s := range b.Snapshots {
		state, err := a.stateOf(s, now)
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "snapshot %q: %w", s.Name, err)
		}
		a.snapshots = append(a.snapshots, volume.CustomSnapshot{Name: s.Name, CustomState: state, ExpiresAt: s.ExpiresAt})
	}
	return nil
}

func (a *arrivingVolume) stateOf(b backup.Volume, now time.Time) (volume.CustomState, error) {
	s := volume.CustomOf(b, now)
	maps.DeleteFunc(s.Config, func(key, value string) bool {
		bad := checkVolumeKey(key, value) != nil
		if bad {
			a.left[key] = true
		}
		return bad || value == ""
	})
	return s, checkVolume(s)
}
