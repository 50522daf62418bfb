package daemon

import (
	"context"
	"errors"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
)

// A Pruned image is one that prune deletes, and why.
type Pruned struct {
	Image kiln.Image
	Why   string
}

// PruneImages deletes cached images and old versions that no instance was made
// from; with all, also images without an alias. With dry it only tells which.
func (d *Daemon) PruneImages(ctx context.Context, all, dry bool) ([]Pruned, error) {
	images, err := d.Images.List(ctx, store.Query{})
	if err != nil {
		return nil, err
	}
	used, err := d.madeFrom(ctx)
	if err != nil {
		return nil, err
	}
	list := []Pruned{}
	var errs []error
	for _, img := range images {
		why := unneeded(img, all)
		if why == "" || used(img.Fingerprint) || d.making.has(img.Fingerprint) {
			continue
		}
		gone := dry
		if !dry {
			gone, err = d.prune(ctx, img.Fingerprint, all)
			errs = append(errs, err)
		}
		if gone {
			list = append(list, Pruned{img, why})
		}
	}
	return list, errors.Join(errs...)
}

// prune deletes an image if it is still unneeded, and no instance was made from it since
// somebody looked. It reports whether it did.
func (d *Daemon) prune(ctx context.Context, fp kiln.Fingerprint, all bool) (bool, error) {
	var lookup error
	gone, err := d.clear(ctx, fp, func(now kiln.Image) bool {
		var used func(kiln.Fingerprint) bool
		used, lookup = d.madeFrom(ctx) // nobody writes rows meanwhile
		return lookup == nil && !used(fp) && unneeded(now, all) != ""
	})
	return gone, errors.Join(lookup, err)
}

// madeFrom tells which images instances were made from. Of an instance whose row doesn't
// say, its volume does; if neither can be read, it may be any image.
func (d *Daemon) madeFrom(ctx context.Context) (used func(kiln.Fingerprint) bool, err error) {
	rows, err := d.db.Instances(project.InAll(ctx))
	if err != nil {
		return nil, err
	}
	bases := map[kiln.Fingerprint]bool{}
	for _, row := range rows {
		if row.Damage != "" && row.Base.IsZero() {
			v, err := d.pool.Get(row.Config[instance.UUIDKey])
			if err != nil {
				d.cfg.Log.Warn("no image is pruned: an instance doesn't say which it needs; to bring its record back, or to "+
					"delete it: kiln admin recover, kiln delete", "instance", row.Name, "damage", row.Damage, "err", err)
				return func(kiln.Fingerprint) bool { return true }, nil
			}
			row.Base = v.Base()
		}
		bases[row.Base] = true
	}
	return func(fp kiln.Fingerprint) bool { return bases[fp] }, nil
}

// unneeded says why nobody needs an image that no instance was made from; "": somebody
// may.
func unneeded(img kiln.Image, all bool) string {
	switch {
	case img.Damage != "": // what it is for can't be read
	case len(img.Aliases) > 0:
	case !img.ReplacedBy.IsZero():
		return "replaced by " + img.ReplacedBy.Short()
	case img.Cached:
		return "cached, and no instance uses it"
	case all:
		return "no alias, and no instance uses it"
	}
	return ""
}

// clear deletes an image that nobody asked to be deleted, if nobody wants it at that
// moment: it may be gone, have a name by now, or become an instance. It reports whether
// it did.
func (d *Daemon) clear(ctx context.Context, fp kiln.Fingerprint, unwanted func(kiln.Image) bool) (bool, error) {
	if err := d.pool.Detach(ctx, fp); err != nil {
		return false, err
	}
	gone, err := d.Images.DeleteIf(ctx, fp, func(img kiln.Image) bool {
		return !d.making.has(fp) && img.Damage == "" && unwanted(img)
	})
	if gone {
		d.tell(ctx, "image-deleted", imageURL(fp), nil)
		err = errors.Join(err, d.dropTree(fp))
	}
	return gone, err
}

// making counts the instances that are being made of each image: no row says yet that
// they need it.
type making struct {
	mu sync.Mutex
	of map[kiln.Fingerprint]int
}

// hold keeps images from being cleared away until it is released.
func (m *making) hold(list ...kiln.Fingerprint) (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[kiln.Fingerprint]int{}
	}
	for _, fp := range list {
		m.of[fp]++
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, fp := range list {
			if m.of[fp]--; m.of[fp] == 0 {
				delete(m.of, fp)
			}
		}
	}
}

func (m *making) has(fp kiln.Fingerprint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[fp] > 0
}
