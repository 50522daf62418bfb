package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
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
	if damage == nil {
		return err
	}
	d.cfg.Log.Error("a tree of an image was damaged", "image", fp, "damage", damage, "err", err)
	if err != nil {
		return kiln.Errorf(kiln.Integrity, "%w", err) // it says what was damaged as well
	}
	text := "; it was made again from the image"
	list, lerr := d.instances.List(ctx)
	var running []string
	for _, i := range list {
		if i.Options[instance.BaseKey] == fp.String() && i.Status != instance.Stopped {
			running = append(running, i.Name)
		}
	}
	if len(running) > 0 {
		text += ", so restart those that read it now: " + strings.Join(running, ", ")
	}
	text += "; the damaged one is kept for a while: kiln admin lost"
	return errors.Join(kiln.Errorf(kiln.Integrity, "%w%s", damage, text), lerr)
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
