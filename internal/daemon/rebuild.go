package daemon

import (
	"context"
	"errors"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// RebuildInstance makes the root filesystem of a stopped instance anew, of an image
// here or elsewhere, or of nothing. Without a name for an image, it is the newest version of the image
// that the instance was made from. Errors: NotFound, Conflict; others are the
// operation's.
func (d *Daemon) RebuildInstance(ctx context.Context, name string, s Source) (*op.Operation, error) {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if i.Status != instance.Stopped {
		return nil, kiln.Errorf(kiln.Conflict, "instance %q is running and can't be rebuilt; stop it first", name)
	}
	o := op.Options{Resources: instanceResources(name), MayCancel: true}
	return d.Ops.Start(ctx, "Rebuilding instance", o, func(ctx context.Context, o *op.Operation) error {
		return d.rebuild(ctx, o, i, s)
	}), nil
}

func (d *Daemon) rebuild(ctx context.Context, o *op.Operation, i instance.Instance, s Source) (err error) {
	img, err := d.rebuildImage(ctx, o, i, s)
	if err != nil {
		return err
	}
	defer d.making.hold(img.Fingerprint)()
	n, err := plan(CreateSpec{Name: i.Name, Architecture: i.Architecture, Source: s}, img)
	if err != nil {
		return err
	}
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	if err := d.makeFiles(ctx, files, img); err != nil {
		return err
	}
	return d.leavingTrees(ctx, i.Name, func() error { return d.instances.Rebuild(ctx, i.Name, n, files) })
}

// rebuildImage finds the image that an instance is to be made of: the one that is
// named, or else the newest version of the one it was made of.
func (d *Daemon) rebuildImage(ctx context.Context, o *op.Operation, i instance.Instance, s Source) (kiln.Image, error) {
	named := s.Alias != "" || s.Fingerprint != "" || len(s.Properties) > 0
	switch {
	case named, s.elsewhere(), s.Type == "none":
		return d.imageFor(ctx, o, s, i.Architecture)
	case i.Base.IsZero():
		return kiln.Image{}, kiln.Errorf(kiln.Invalid, "instance %q was made from no image; say which to use", i.Name)
	}
	return d.newest(ctx, i.Base)
}

// newest follows an image to the version that took its place. The error is NotFound
// when it isn't here any more.
func (d *Daemon) newest(ctx context.Context, fp kiln.Fingerprint) (kiln.Image, error) {
	img, err := d.Images.Get(ctx, fp)
	if errors.Is(err, kiln.NotFound) {
		return img, kiln.Errorf(kiln.NotFound, "the image %s that the instance was made from isn't here any more; say "+
			"which to use", fp.Short())
	}
	for range 1000 { // a circle ends, too
		if err != nil || img.ReplacedBy.IsZero() {
			return img, err
		}
		next, nerr := d.Images.Get(ctx, img.ReplacedBy)
		if errors.Is(nerr, kiln.NotFound) {
			return img, nil
		}
		img, err = next, nerr
	}
	return img, err
}
