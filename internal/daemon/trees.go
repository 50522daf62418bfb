package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// content tells the pool how to make the tree of an image it hasn't seen. The
// bytes are compared with their hashes while they are read: what a disk has
// damaged since the import does not get into an instance.
func (d *Daemon) content(ctx context.Context, img kiln.Image) (volume.Content, error) {
	lim, err := d.limits(ctx)
	if err != nil {
		return volume.Content{}, err
	}
	var visit *archive.Visit
	c := volume.Content{Done: func() { visit.Leave() }}
	c.Unpack = func(ctx context.Context, rootfs, meta archive.TreeWriter) error {
		if visit, err = d.crowd.Enter(ctx); err != nil {
			return err
		}
		lim.Visit = visit
		s, err := d.Images.Open(ctx, img)
		if err != nil {
			return err
		}
		err = errors.Join(format.Unpack(ctx, s, lim, rootfs, meta), s.Close())
		if err == nil || ctx.Err() != nil {
			return err
		}
		// A damaged file rarely unpacks to its end, where its hash would tell: what
		// is wrong is the file, whatever it looks like.
		if damage := d.Images.Verify(ctx, img.Fingerprint); errors.Is(damage, kiln.Integrity) {
			return damage
		}
		return err
	}
	mount, err := d.setting(ctx, mountSquashfs)
	if err != nil {
		return c, err
	}
	last := img.Files[len(img.Files)-1]
	if last.Ext != ".squashfs" {
		return c, nil
	}
	// A squashfs is read by other programs than ours, or by the kernel.
	if err := d.Images.Verify(ctx, img.Fingerprint); err != nil {
		return c, err
	}
	// "auto" mounts what this server made or what is signed by somebody
	// trusted: no image is, yet.
	if mount == "always" {
		c.Squashfs = d.blobs.Path(last.Hash)
		if last.Role == kiln.Unified {
			c.Subdir = "rootfs"
		}
	}
	return c, nil
}

// fillImage makes sure that the pool has the tree of an image.
func (d *Daemon) fillImage(ctx context.Context, fp kiln.Fingerprint) error {
	if err := d.Images.Touch(ctx, fp, time.Now()); err != nil && !errors.Is(err, kiln.NotFound) {
		return err
	}
	return d.pool.Fill(ctx, fp, func(ctx context.Context) (volume.Content, error) { return d.refill(ctx, fp) })
}

// refill tells the pool how to make the tree of an image again.
func (d *Daemon) refill(ctx context.Context, fp kiln.Fingerprint) (volume.Content, error) {
	ctx = project.InAll(ctx) // trees are the same in each
	img, err := d.Images.Get(ctx, fp)
	if err == nil {
		err = img.Whole()
	}
	if err != nil {
		return volume.Content{}, err
	}
	return d.content(ctx, img)
}

// dropTree removes what the pool made of an image, unless it is needed.
func (d *Daemon) dropTree(fp kiln.Fingerprint) error {
	if fp.IsZero() {
		return nil
	}
	if known, err := d.known(d.ctx, fp); known || err != nil {
		return err
	}
	if err := d.pool.RemoveImage(fp); !errors.Is(err, kiln.Conflict) && !errors.Is(err, kiln.NotFound) {
		return err
	}
	return nil
}

// known reports whether there is an image. The files of one may be somewhere else now, and
// its tree all that is here of it.
func (d *Daemon) known(ctx context.Context, fp kiln.Fingerprint) (bool, error) {
	_, err := d.Images.Get(project.InAll(ctx), fp)
	if errors.Is(err, kiln.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// leavingTrees does what may leave images without an instance, and removes the trees of
// those that nobody needs then: of the instance, and of its snapshots.
func (d *Daemon) leavingTrees(ctx context.Context, name string, work func() error) error {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return err
	}
	snapshots, err := d.instances.Snapshots(ctx, name)
	if err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	bases := map[kiln.Fingerprint]bool{i.Base: true}
	for _, s := range snapshots {
		bases[s.Base] = true
	}
	var errs []error
	for fp := range bases {
		errs = append(errs, d.dropTree(fp))
	}
	return errors.Join(errs...)
}

// dropTrees removes what the pool made of images that are neither in the store nor an
// instance's.
func (d *Daemon) dropTrees(ctx context.Context) error {
	var lookup error
	err := d.pool.Sweep(func(fp kiln.Fingerprint) bool {
		known, err := d.known(ctx, fp)
		lookup = errors.Join(lookup, err)
		return known || err != nil
	})
	return errors.Join(lookup, err)
}

// tellWithheld warns of a record that is lost or damaged, and of what isn't removed as
// long as it is.
func (d *Daemon) tellWithheld() {
	err := d.pool.Withheld()
	if err != nil {
		err = fmt.Errorf("layers and trees of images that nobody needs are not removed, as it may stand on any of them: %w; "+
			"bring the record back; or have it made again, if that can be: kiln admin recover; or delete what it is of", err)
	}
	d.outcome(recordDamaged, db.Subject{}, err)
	if told := d.withheld.Swap(err != nil); err != nil && !told {
		d.cfg.Log.Warn("a record is lost or damaged", "err", err)
	}
}

// tellUnknown warns of containers that run and have no row: the database is older than they.
// It is called again when one of them has ended.
func (d *Daemon) tellUnknown() {
	var err error
	if names := d.instances.Unknown(); len(names) > 0 {
		err = kiln.Errorf(kiln.Integrity, "%s: running, and left alone; to have it back stop the daemon, then: "+
			"kiln admin recover", strings.Join(names, ", "))
		d.cfg.Log.Warn("the database doesn't know what runs", "err", err)
	}
	d.outcome(instanceUnknown, db.Subject{}, err)
	d.networks.changed() // what has ended has no addresses any more
}

// owned tells the pool which volumes and snapshots have rows. The error is Integrity when
// a row doesn't say which are its.
func (d *Daemon) owned() (volumes, snapshots []string, err error) {
	ctx := project.InAll(context.Background()) // a sweep of what was deleted is not given up
	rows, err := d.db.Instances(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range rows {
		uuid := row.Config[instance.UUIDKey]
		if uuid == "" && row.Damage != "" {
			return nil, nil, kiln.Errorf(kiln.Integrity, "instance %q: %s", row.Name, row.Damage)
		}
		if uuid != "" {
			volumes = append(volumes, uuid)
		}
	}
	all, err := d.db.AllSnapshotFiles(ctx)
	for _, s := range all {
		snapshots = append(snapshots, s.Files)
	}
	return volumes, snapshots, err
}
