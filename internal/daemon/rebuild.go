package daemon

import (
	"context"
	"errors"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
)

// RebuildInstance makes the root filesystem of an instance anew, of an image here or
// elsewhere, or of nothing. Without a name for an image, it is the newest version of the
// image that the instance was made from. With force, an instance that runs is stopped
// once its new files are ready, and started again; without, it is a Conflict. What needs
// no other server to be checked is checked before it returns.
// Errors: NotFound, Ambiguous, Invalid, Conflict, Unsupported; others are the operation's.
func (d *Daemon) RebuildInstance(ctx context.Context, name string, s Source, force bool) (*op.Operation, error) {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.checkRebuild(ctx, i, s, force); err != nil {
		return nil, err
	}
	ctx = instance.Meaning(ctx, i)
	o := op.Options{Resources: instanceResources(name), MayCancel: true}
	return d.Ops.Start(ctx, "Rebuilding instance", o, func(ctx context.Context, o *op.Operation) error {
		return d.rebuild(ctx, o, i, s, force)
	}), nil
}

// checkRebuild says what rebuild would, as far as that is known without another server.
func (d *Daemon) checkRebuild(ctx context.Context, i instance.Instance, s Source, force bool) error {
	runs := i.Status.Runs()
	switch {
	case !runs && i.Status != instance.Stopped:
		return kiln.Errorf(kiln.Conflict, "instance %q can't be rebuilt: %s", i.Name, i.Problem)
	case s.elsewhere():
		if _, err := d.remotes.Open(s.Remote, remote.Access{}); err != nil {
			return err
		}
	default:
		img, err := d.rebuildImage(ctx, nil, i, s)
		if err != nil {
			return err
		}
		if _, err := plan(CreateSpec{Name: i.Name, Architecture: i.Architecture, Source: s}, img); err != nil {
			return err
		}
	}
	switch { // last, so that nobody stops it for an image that there isn't
	case runs && !force:
		return kiln.Errorf(kiln.Conflict, "instance %q is running and can't be rebuilt; stop it first, or give "+
			"--force", i.Name)
	case runs && i.Ephemeral:
		return kiln.Errorf(kiln.Conflict, "instance %q is ephemeral: it would be deleted when it is stopped to be rebuilt; "+
			"launch another one, or make it persistent first: kiln config edit %s", i.Name, i.Name)
	}
	return nil
}

// rebuild makes the new files while the instance may still run, so that what fails
// until then leaves it as it is.
func (d *Daemon) rebuild(ctx context.Context, o *op.Operation, i instance.Instance, s Source, force bool) (err error) {
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
	d.warnDamaged(o, img)
	return d.leavingTrees(ctx, i.Name, func() error { return d.instances.Rebuild(ctx, i.Name, n, files, force) })
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
	img, err := d.newest(ctx, i.Base)
	if errors.Is(err, kiln.NotFound) {
		err = kiln.Errorf(kiln.NotFound, "rebuild instance %q: %w; say which to use: kiln rebuild %s IMAGE", i.Name, err,
			i.Name)
	}
	return img, err
}

// newest follows an image to the version that took its place: the newest of those that
// are here, or where its alias points now. The error is NotFound when neither tells.
func (d *Daemon) newest(ctx context.Context, fp kiln.Fingerprint) (kiln.Image, error) {
	img, err := d.Images.Get(ctx, fp)
	if errors.Is(err, kiln.NotFound) {
		return d.followed(ctx, fp)
	}
	for range 1000 { // a circle ends, too
		if err != nil || img.ReplacedBy.IsZero() {
			return img, err
		}
		next, nerr := d.Images.Get(ctx, img.ReplacedBy)
		if errors.Is(nerr, kiln.NotFound) {
			if next, nerr = d.followed(ctx, fp); errors.Is(nerr, kiln.NotFound) {
				return img, nil
			}
			return next, nerr
		}
		img, err = next, nerr
	}
	return img, err
}

// followed gives what the alias of an image that isn't here any more means now.
func (d *Daemon) followed(ctx context.Context, fp kiln.Fingerprint) (kiln.Image, error) {
	a, err := d.Images.Followed(ctx, fp)
	if errors.Is(err, kiln.NotFound) {
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "the image %s isn't here any more, and no alias tells what came "+
			"after it", fp.Short())
	}
	if err != nil {
		return kiln.Image{}, err
	}
	return d.Images.Get(ctx, a.Target)
}

// NewerImages gives, for each image that an instance was made from and that has one, the
// version that is in its place now.
func (d *Daemon) NewerImages(ctx context.Context) (map[kiln.Fingerprint]kiln.Fingerprint, error) {
	list, err := d.instances.List(ctx)
	if err != nil {
		return nil, err
	}
	newer, seen := map[kiln.Fingerprint]kiln.Fingerprint{}, map[kiln.Fingerprint]bool{}
	for _, i := range list {
		if i.Base.IsZero() || seen[i.Base] {
			continue
		}
		seen[i.Base] = true
		now, err := d.newest(ctx, i.Base)
		if err != nil && !errors.Is(err, kiln.NotFound) {
			return nil, err
		}
		if err == nil && now.Fingerprint != i.Base {
			newer[i.Base] = now.Fingerprint
		}
	}
	return newer, nil
}
