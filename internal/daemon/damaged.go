package daemon

import (
	"errors"
	"fmt"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
)

// What holds of an image with a file that is missing or damaged, as far as that is known: it
// is listed as damaged and a warning of its own says so, nobody is sent it, and instances
// are made of it only from its unpacked tree, while there is one. Whatever brings the file
// back ends that. See kiln.Image.Missing.

// damagedImages hears of images whose files turned out to be missing or damaged, or to be as
// they were.
func (d *Daemon) damagedImages(list []db.Image) {
	for _, i := range list {
		if err := d.tellDamage(i); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Error("look what is wrong with an image", "image", i.Fingerprint, "err", err)
		}
	}
}

// tellDamage has a warning say what is wrong with the files of an image now, if anything is.
func (d *Daemon) tellDamage(i db.Image) error {
	d.damageTold.Lock() // so that the last one to look is the last to say so
	defer d.damageTold.Unlock()
	img, err := d.Images.Get(project.In(d.ctx, project.Alone(i.Project)), i.Fingerprint)
	if errors.Is(err, kiln.NotFound) {
		return nil // its warning went with it
	}
	if err != nil {
		return err
	}
	if damage := img.Present(); damage != nil {
		d.cfg.Log.Warn("an image is damaged", "image", i.Fingerprint, "project", i.Project, "err", damage)
		d.outcome(imageDamaged, db.Subject{Image: i}, damage)
		return nil
	}
	d.outcome(imageDamaged, db.Subject{Image: i}, nil)
	return nil
}

// findDamagedImages warns of the images whose files were not there when the daemon started,
// and reads those again that there was a warning about: nothing else remembers which of
// them were there but damaged.
func (d *Daemon) findDamagedImages() {
	list, err := d.Images.List(project.InAll(d.ctx), store.Query{})
	var found []db.Image
	for _, img := range list {
		if img.Missing != "" {
			found = append(found, db.Image{Project: img.Project, Fingerprint: img.Fingerprint})
		}
	}
	d.damagedImages(found)
	warnings, werr := d.db.Warnings(d.ctx)
	for _, w := range warnings {
		i := w.About.Image
		if w.Type != imageDamaged || w.Status == db.WarningResolved || i.Fingerprint.IsZero() {
			continue
		}
		if d.Images.Verify(project.In(d.ctx, project.Alone(i.Project)), i.Fingerprint) == nil { // else it tells
			d.damagedImages([]db.Image{i})
		}
	}
	if err = errors.Join(err, werr); err != nil && d.ctx.Err() == nil {
		d.cfg.Log.Error("look for damaged images", "err", err)
	}
}

// warnDamaged tells who makes an instance of an image that this worked only since there was
// a tree of it.
func (d *Daemon) warnDamaged(o *op.Operation, img kiln.Image) {
	if img.Missing != "" {
		d.warn(o, fmt.Sprintf("image %s is damaged: %s; the instance is made of its unpacked tree, which nobody can make "+
			"again; import or copy the image again", img.Fingerprint.Short(), img.Missing))
	}
}
