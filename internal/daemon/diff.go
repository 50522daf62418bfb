package daemon

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format"
)

// An ImageDiff tells what one image has that another hasn't.
type ImageDiff struct {
	Files    []format.FileDiff
	Packages []format.PackageDiff
}

// DiffImages compares the root filesystems of two images, file by file, and what is
// installed in them. Both are read to their ends. Errors: as of format.Diff; Busy when too many
// wait for it.
func (d *Daemon) DiffImages(ctx context.Context, before, after kiln.Image) (ImageDiff, error) {
	lim, err := d.limits(ctx)
	if err != nil {
		return ImageDiff{}, err
	}
	if lim.Visit, err = d.crowd.Enter(ctx); err != nil {
		return ImageDiff{}, err
	}
	defer lim.Visit.Leave()
	sums := make([]*format.Summary, 2)
	g, ctx := errgroup.WithContext(ctx)
	for i, img := range []kiln.Image{before, after} {
		g.Go(func() error {
			s, err := d.Images.Open(ctx, img)
			if err != nil {
				return err
			}
			sums[i], err = format.Summarise(ctx, s, lim)
			return errors.Join(err, s.Close())
		})
	}
	if err := g.Wait(); err != nil {
		return ImageDiff{}, err
	}
	var diff ImageDiff
	diff.Files, diff.Packages, err = format.Diff(sums[0], sums[1])
	return diff, err
}
