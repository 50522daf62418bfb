package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Base is the image that the volume is a clone of; zero: of none.
func (v *Volume) Base() kiln.Fingerprint { return v.base }

func (v *Volume) dir() string { return v.pool.volumeDir(v.name) }

// Mount gives the volume's tree as a mount that is attached nowhere: it is there
// while the file, or what it is moved to, is. The ids of the tree are mapped to
// the host's; without ids they are as in the tree. A volume is mounted once at a
// time. The error is Integrity when its image's tree is lost.
func (v *Volume) Mount(ctx context.Context, ids []IDMap) (*os.File, error) {
	// Read now: a snapshot puts more layers below a volume.
	r, err := v.pool.volumeRecord(v.name)
	if err != nil {
		return nil, err
	}
	return v.pool.mount(ctx, r, v.dir(), ids)
}

// MountToChange is Mount for what can't go on if nothing can be changed. overlayfs is only read
// where it finds no room for what it works with: the error is NoSpace then.
func (v *Volume) MountToChange(ctx context.Context, ids []IDMap) (*os.File, error) {
	tree, err := v.Mount(ctx, ids)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(tree.Fd()), &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "statfs", Path: v.dir(), Err: err}, tree.Close())
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return tree, nil
	}
	why := unix.ENOSPC
	if err := unix.Statfs(v.dir(), &st); err == nil && st.Flags&unix.ST_RDONLY != 0 {
		why = unix.EROFS
	}
	return nil, errors.Join(fmt.Errorf("its files can only be read: %w", why), tree.Close())
}

// Ready makes sure that the volume can be mounted: its image's tree is made again if it
// is lost or damaged. What was opened of the image's metadata before may be another's
// after that. The error is Integrity.
func (v *Volume) Ready(ctx context.Context) error {
	r, err := v.pool.volumeRecord(v.name)
	if err != nil {
		return err
	}
	if err := v.pool.whole(r, v.dir()); err != nil {
		return err
	}
	_, _, err = v.pool.goodLowers(ctx, r)
	return err
}

// mount gives the tree of a stack; with a directory for changes, "" for none.
func (p *Pool) mount(ctx context.Context, r record, upper string, ids []IDMap) (*os.File, error) {
	if err := p.whole(r, upper); err != nil {
		return nil, err
	}
	lowers, index, err := p.goodLowers(ctx, r)
	if err != nil {
		return nil, err
	}
	tree, err := p.ns.overlay(ctx, stack{lowers, upper, index}, ids)
	if upper == "" || !errors.Is(err, unix.ESTALE) {
		return tree, err
	}
	if err := p.adopt(ctx, r, upper); err != nil {
		return nil, fmt.Errorf("%s is a copy of files that were elsewhere; make it usable here: %w", upper, err)
	}
	return p.ns.overlay(ctx, stack{lowers, upper, index}, ids)
}

// goodLowers is lowers after the image's tree was made again, if need be.
func (p *Pool) goodLowers(ctx context.Context, r record) (list []string, index bool, err error) {
	if err := p.ensure(ctx, r.Base); err != nil {
		// Damaged metadata of an image that is lost keep nobody from the files.
		if _, lost := p.imageRecord(r.Base); lost != nil {
			return nil, false, err
		}
	}
	list, index, err = p.lowers(ctx, r)
	if !errors.Is(err, errUnmountable) {
		return list, index, err
	}
	// Such as one whose beginning a disk has damaged.
	if err := p.renew(ctx, r.Base, func() error { return p.mountable(ctx, r.Base) }); err != nil {
		return nil, false, err
	}
	return p.lowers(ctx, r)
}

// errUnmountable says that the tree of an image wasn't mounted.
var errUnmountable = errors.New("the tree of the image can't be mounted")

// mountable mounts the tree of an image. The error is NotFound when the tree is lost, or
// when it can't be mounted because it is damaged.
func (p *Pool) mountable(ctx context.Context, fp kiln.Fingerprint) error {
	image, err := p.imageRecord(fp)
	if err == nil {
		err = p.mountBase(ctx, fp, image)
	}
	if err == nil || errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Timeout) || ctx.Err() != nil {
		return err
	}
	if !errors.Is(err, errDamaged) {
		damage := p.verifyFile(ctx, fp, disk.ReadTo)
		if !errors.Is(damage, kiln.Integrity) { // it is what was made, as far as one knows
			return fmt.Errorf("%w; try again, and if it stays so: kiln image verify %s", err, fp.Short())
		}
		err = errors.Join(err, damage)
	}
	return kiln.Errorf(kiln.NotFound, "%w", err)
}

// mountBase mounts the tree of an image in the pool's namespace. Errors: errUnmountable, and
// errDamaged if the tree is to blame; Timeout and that of ctx while it is being mounted.
func (p *Pool) mountBase(ctx context.Context, fp kiln.Fingerprint, image imageRecord) error {
	if image.Kind == kindDir {
		return nil
	}
	file := filepath.Join(p.imageDir(fp), "rootfs."+image.Kind)
	err := p.ns.base(ctx, fp.String(), image.Kind, file)
	if errors.Is(err, kiln.Timeout) || err != nil && ctx.Err() != nil {
		return err // it is on its way yet
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnmountable, err)
	}
	return nil
}

// lowers gives the read-only layers of a stack, top first, and whether overlayfs
// can index them.
func (p *Pool) lowers(ctx context.Context, r record) (list []string, index bool, err error) {
	for _, id := range r.Layers {
		list = append(list, p.layerTree(id))
	}
	if r.Base.IsZero() {
		return list, true, nil
	}
	image, err := p.imageRecord(r.Base)
	if err == nil {
		err = p.mountBase(ctx, r.Base, image)
	}
	if errors.Is(err, kiln.NotFound) || errors.Is(err, errDamaged) {
		err = kiln.Errorf(kiln.Integrity, "what the volume stands on is lost: %w: %s", err, p.imageDir(r.Base))
	}
	if err != nil {
		return nil, false, err
	}
	lower := filepath.Join(p.imageDir(r.Base), "rootfs")
	if image.Kind != kindDir {
		lower = filepath.Join("base", r.Base.String(), image.Subdir)
	}
	// overlayfs can't index a lower layer that is a squashfs.
	return append(list, lower), image.Kind != kindSquashfs, nil
}

// Meta opens the volume's metadata.yaml and templates/ for reading: its own if it
// has any, else its image's.
func (v *Volume) Meta() (*os.Root, error) {
	own, err := disk.OpenRoot(filepath.Join(v.dir(), "meta"))
	if !errors.Is(err, fs.ErrNotExist) {
		return own, err
	}
	if v.base.IsZero() {
		return v.EditMeta(context.Background())
	}
	if err := v.pool.ensure(context.Background(), v.base); err != nil {
		return nil, err
	}
	return disk.OpenRoot(filepath.Join(v.pool.imageDir(v.base), "meta"))
}

// EditMeta opens the volume's own metadata for changes, which it gets as a copy of
// its image's the first time.
func (v *Volume) EditMeta(ctx context.Context) (*os.Root, error) {
	own := filepath.Join(v.dir(), "meta")
	if _, err := os.Stat(own); errors.Is(err, fs.ErrNotExist) {
		err := v.pool.appear(own, func(temp string) error {
			if v.base.IsZero() {
				return nil
			}
			if err := v.pool.ensure(ctx, v.base); err != nil {
				return err
			}
			if err := copyInto(ctx, filepath.Join(v.pool.imageDir(v.base), "meta"), temp, nil); err != nil {
				return err
			}
			return disk.SyncSystem(temp)
		})
		if err != nil && !errors.Is(err, kiln.Conflict) {
			return nil, err
		}
	}
	return disk.OpenRoot(own)
}

// Usage is how many bytes the volume takes besides its image's. Of what it shares
// with its snapshots and copies every one counts all. When ctx ends, what was counted
// until then comes with the error.
func (v *Volume) Usage(ctx context.Context) (int64, error) {
	r, err := v.pool.volumeRecord(v.name)
	if err != nil {
		return 0, err
	}
	total, err := usage(ctx, filepath.Join(v.dir(), "upper"))
	for _, id := range r.Layers {
		n, uerr := v.pool.layerUsage(id)
		total, err = total+n, errors.Join(err, uerr)
	}
	return total, err
}
