package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kiln-containers/kiln"
)

// Base is the image that the volume is a clone of; zero: of none.
func (v *Volume) Base() kiln.Fingerprint { return v.base }

func (v *Volume) dir() string { return v.pool.volumeDir(v.name) }

// Mount gives the volume's tree as a mount that is attached nowhere: it is there
// while the file, or what it is moved to, is. The ids of the tree are mapped to
// the host's; without ids they are as in the tree. A volume is mounted once at a
// time. The error is Integrity when its image's tree is lost.
func (v *Volume) Mount(ctx context.Context, ids []IDMap) (*os.File, error) {
	if v.base.IsZero() {
		return v.pool.ns.overlay(ctx, "", v.dir(), ids, true)
	}
	r, err := v.pool.imageRecord(v.base)
	if errors.Is(err, kiln.NotFound) {
		return nil, kiln.Errorf(kiln.Integrity, "the tree of image %s, which the volume stands on, is lost: %s", v.base.Short(), v.pool.imageDir(v.base))
	}
	if err != nil {
		return nil, err
	}
	image := v.pool.imageDir(v.base)
	lower := filepath.Join(image, "rootfs")
	if r.Kind != kindDir {
		if err := v.pool.ns.base(v.base.String(), r.Kind, lower+"."+r.Kind); err != nil {
			return nil, err
		}
		lower = filepath.Join("base", v.base.String(), r.Subdir)
	}
	// overlayfs can't index a lower layer that is a squashfs.
	return v.pool.ns.overlay(ctx, lower, v.dir(), ids, r.Kind != kindSquashfs)
}

// Meta opens the volume's metadata.yaml and templates/ for reading: its own if it
// has any, else its image's.
func (v *Volume) Meta() (*os.Root, error) {
	own, err := os.OpenRoot(filepath.Join(v.dir(), "meta"))
	if !errors.Is(err, fs.ErrNotExist) {
		return own, err
	}
	if v.base.IsZero() {
		return v.EditMeta(context.Background())
	}
	return os.OpenRoot(filepath.Join(v.pool.imageDir(v.base), "meta"))
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
			if err := copyInto(ctx, filepath.Join(v.pool.imageDir(v.base), "meta"), temp); err != nil {
				return err
			}
			return syncFS(temp)
		})
		if err != nil && !errors.Is(err, kiln.Conflict) {
			return nil, err
		}
	}
	return os.OpenRoot(own)
}

// Usage is how many bytes the volume takes by itself.
func (v *Volume) Usage() (int64, error) { return usage(filepath.Join(v.dir(), "upper")) }
