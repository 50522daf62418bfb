package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// UpdateImage changes what a user may change of an image, in one transaction.
// Errors: NotFound, Invalid, and those of change.
func (d *Daemon) UpdateImage(ctx context.Context, fp kiln.Fingerprint, change func(*kiln.Image) error) error {
	err := d.Images.Update(ctx, fp, func(img *kiln.Image) error {
		if err := change(img); err != nil {
			return err
		}
		return d.checkProfiles(ctx, img.Profiles)
	})
	if err == nil {
		d.tell(ctx, "image-updated", imageURL(fp), nil)
	}
	return err
}

// DeleteImage removes an image, its aliases, and its files where no other image
// has them. Instances made from it stay.
func (d *Daemon) DeleteImage(ctx context.Context, fp kiln.Fingerprint) *op.Operation {
	o := op.Options{Resources: map[string][]string{"images": {imageURL(fp)}}}
	return d.Ops.Start(ctx, "Deleting image", o, func(ctx context.Context, _ *op.Operation) error {
		return d.deleteImage(ctx, fp)
	})
}

func (d *Daemon) deleteImage(ctx context.Context, fp kiln.Fingerprint) error {
	if err := d.pool.Detach(ctx, fp); err != nil {
		return fmt.Errorf("instances need image %s: %w", fp.Short(), err)
	}
	if err := d.Images.Delete(ctx, fp); err != nil {
		return err
	}
	d.tell(ctx, "image-deleted", imageURL(fp), nil)
	return d.dropTree(fp)
}

// VerifyImage reads an image's files again and compares their hashes. The
// operation fails with Integrity when they differ.
func (d *Daemon) VerifyImage(ctx context.Context, fp kiln.Fingerprint) *op.Operation {
	o := op.Options{Resources: map[string][]string{"images": {imageURL(fp)}}, MayCancel: true}
	return d.Ops.Start(ctx, "Verifying image", o, func(ctx context.Context, o *op.Operation) error {
		if err := d.Images.Verify(ctx, fp); err != nil {
			return err
		}
		return d.verifyTree(ctx, fp)
	})
}

// verifyTree looks at what instances of an image read. A tree that is damaged is made
// again from the image, which is good.
func (d *Daemon) verifyTree(ctx context.Context, fp kiln.Fingerprint) error {
	damage, err := d.pool.RepairTree(ctx, fp)
	switch {
	case damage != nil:
		return d.treeFound(ctx, fp, damage, err)
	case err == nil:
		d.treeSound(ctx, fp)
	}
	return err
}

// treeFound tells that the tree of an image was damaged, and in the error, which is Integrity,
// what became of it: it was made again, unless err says why not.
func (d *Daemon) treeFound(ctx context.Context, fp kiln.Fingerprint, damage, err error) error {
	d.cfg.Log.Error("a tree of an image was damaged", "image", fp, "damage", damage, "err", err)
	told, lerr := d.treeText(ctx, fp, damage, err)
	all, aerr := d.treeText(project.InAll(ctx), fp, damage, err)
	d.eachWith(ctx, fp, func(about db.Subject) { d.outcome(treeDamaged, about, all) })
	return errors.Join(told, lerr, aerr)
}

// treeText says what treeFound does, with the instances of the projects that ctx is about.
func (d *Daemon) treeText(ctx context.Context, fp kiln.Fingerprint, damage, err error) (told, lookup error) {
	if err != nil {
		// It says what was damaged as well.
		return kiln.Errorf(kiln.Integrity, "%w; until the image is imported or copied again no other instance is made of it",
			err), nil
	}
	text := "; it was made again from the image"
	list, lookup := d.instances.List(ctx)
	var running []string
	for _, i := range list {
		if i.Options[instance.BaseKey] == fp.String() && i.Status != instance.Stopped {
			running = append(running, inProject(i.Name, i.Project))
		}
	}
	if len(running) > 0 {
		text += ", so restart those that read it now: " + strings.Join(running, ", ")
	}
	text += "; the damaged one is kept for a while: kiln admin lost"
	return kiln.Errorf(kiln.Integrity, "%w%s", damage, text), lookup
}

// treeSound tells that the tree of an image is what it was.
func (d *Daemon) treeSound(ctx context.Context, fp kiln.Fingerprint) {
	d.eachWith(ctx, fp, func(about db.Subject) {
		if !about.Image.Fingerprint.IsZero() { // of others nobody knows yet
			d.outcome(treeDamaged, about, nil)
		}
	})
}

// eachWith calls f for an image in each project that has it, or for the server if none does.
func (d *Daemon) eachWith(ctx context.Context, fp kiln.Fingerprint, f func(db.Subject)) {
	list, err := d.Images.Everywhere(ctx, fp)
	if err != nil && ctx.Err() == nil {
		d.cfg.Log.Error("look who has an image", "image", fp, "err", err)
	}
	for _, img := range list {
		f(db.Subject{Image: db.Image{Project: img.Project, Fingerprint: fp}})
	}
	if len(list) == 0 {
		f(db.Subject{})
	}
}

// CreateAlias gives an image one more name. No image is deleted by that, however many
// versions are older now: who moves aliases by hand counts on finding the others.
// Errors: Invalid, NotFound, Conflict for an alias that exists, of whatever image.
func (d *Daemon) CreateAlias(ctx context.Context, a kiln.Alias) error {
	if err := d.Images.CreateAlias(ctx, a); err != nil {
		return err
	}
	d.tell(ctx, "image-alias-created", aliasURL(a.Name), map[string]any{"target": a.Target.String()})
	return nil
}

// UpdateAlias changes the description and the target of an alias, in one
// transaction. As with CreateAlias, no image is deleted. Errors: NotFound, and those of change.
func (d *Daemon) UpdateAlias(ctx context.Context, name string, change func(*kiln.Alias) error) error {
	a, err := d.Images.UpdateAlias(ctx, name, change)
	if err != nil {
		return err
	}
	d.tell(ctx, "image-alias-updated", aliasURL(name), map[string]any{"target": a.Target.String()})
	return nil
}

// RollBackAlias points an alias to the image that it pointed to n versions ago, and
// gives the image it leaves and the one it points to. Updates go on with the first
// version that is newer than the one it leaves. Errors: NotFound, Invalid.
func (d *Daemon) RollBackAlias(ctx context.Context, name string, n int) (from, to kiln.Image, err error) {
	from, to, err = d.Images.RollBack(ctx, name, n)
	if err == nil {
		d.tell(ctx, "image-alias-updated", aliasURL(name), map[string]any{"target": to.Fingerprint.String()})
	}
	return from, to, err
}

// RenameAlias gives an alias another name. Errors: Invalid, NotFound, Conflict.
func (d *Daemon) RenameAlias(ctx context.Context, from, to string) error {
	if err := d.Images.RenameAlias(ctx, from, to); err != nil {
		return err
	}
	d.tell(ctx, "image-alias-renamed", aliasURL(to), map[string]any{"old_name": from})
	return nil
}

// DeleteAlias removes an alias; the image stays. Errors: NotFound.
func (d *Daemon) DeleteAlias(ctx context.Context, name string) error {
	if err := d.Images.DeleteAlias(ctx, name); err != nil {
		return err
	}
	d.tell(ctx, "image-alias-deleted", aliasURL(name), nil)
	return nil
}
