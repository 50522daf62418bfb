package store

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// noteOwn remembers which properties somebody changed, so that the next version
// can have them too.
func noteOwn(img *kiln.Image, before map[string]string) {
	for k, v := range img.Properties {
		if before[k] != v {
			img.Own[k] = v
		}
	}
	for k := range before {
		if _, ok := img.Properties[k]; !ok {
			img.Own[k] = ""
		}
	}
}

// replace hands over to a new version, in one transaction with it, what users gave
// to the old one.
func replace(ctx context.Context, tx *db.Tx, old, now kiln.Fingerprint) error {
	if old.IsZero() || old == now {
		return nil
	}
	before, err := tx.Images(ctx, db.ImageQuery{Fingerprint: old})
	if err != nil || len(before) == 0 {
		return err // deleted meanwhile
	}
	after, err := tx.Images(ctx, db.ImageQuery{Fingerprint: now})
	if err != nil {
		return err
	}
	was, img := before[0], after[0]
	maps.Copy(img.Properties, was.Own)
	dropEmpty(img.Properties)
	img.Own, img.Public, img.AutoUpdate, img.Cached = was.Own, was.Public, was.AutoUpdate, was.Cached
	img.Profiles, img.LastUsedAt, img.Origin = was.Profiles, was.LastUsedAt, was.Origin
	img.ReplacedBy, img.ReplacedAt = kiln.Fingerprint{}, time.Time{}
	was.ReplacedBy, was.ReplacedAt, was.AutoUpdate = now, time.Now(), false
	return errors.Join(tx.UpdateImage(ctx, img), tx.UpdateImage(ctx, was), tx.MoveAliases(ctx, old, now))
}

// Replace makes an image that is here the new version of another.
func (s *Store) Replace(ctx context.Context, old, now kiln.Fingerprint) error {
	return s.db.Tx(ctx, func(tx *db.Tx) error { return replace(ctx, tx, old, now) })
}

// Replaced gives the images that were replaced by one.
func (s *Store) Replaced(ctx context.Context, by kiln.Fingerprint) ([]kiln.Image, error) {
	return s.db.Images(ctx, db.ImageQuery{Replaced: by})
}

// Apply lays what somebody says over an image that is here, as Put does. Aliases
// that other images have are moved with moveAliases, else a Conflict.
// Errors: NotFound, Invalid, Conflict.
func (s *Store) Apply(ctx context.Context, fp kiln.Fingerprint, given kiln.Image, moveAliases bool) error {
	for _, a := range given.Aliases {
		if err := kiln.CheckAlias(a.Name); err != nil {
			return err
		}
	}
	return s.db.Tx(ctx, func(tx *db.Tx) error {
		list, err := tx.Images(ctx, db.ImageQuery{Fingerprint: fp})
		if err == nil && len(list) == 0 {
			err = kiln.Errorf(kiln.NotFound, "Image not found")
		}
		if err != nil {
			return err
		}
		img := laidOver(list[0], given)
		if given.Profiles != nil {
			img.Profiles = given.Profiles
		}
		if !given.ExpiresAt.IsZero() {
			img.ExpiresAt = given.ExpiresAt
		}
		errs := []error{tx.UpdateImage(ctx, img)}
		for _, a := range given.Aliases {
			a.Target = fp
			errs = append(errs, setAlias(ctx, tx, a, moveAliases))
		}
		return errors.Join(errs...)
	})
}
