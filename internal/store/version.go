package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// A Version is an image that an alias points, or pointed, to.
type Version = db.Version

// History gives the images that an alias pointed to, the present one first. They may
// be gone. Errors: NotFound, Invalid for a version of an alias.
func (s *Store) History(ctx context.Context, name string) ([]Version, error) {
	if _, err := s.aliasItself(ctx, name); err != nil {
		return nil, err
	}
	return s.db.History(ctx, name)
}

// aliasItself finds an alias, of which an older version is none. Errors: NotFound,
// Invalid for a version.
func (s *Store) aliasItself(ctx context.Context, name string) (kiln.Alias, error) {
	a, err := s.db.Alias(ctx, name)
	if !errors.Is(err, kiln.NotFound) {
		return a, err
	}
	if _, verr := s.aliasVersion(ctx, name, false); verr == nil {
		alias := name[:strings.LastIndex(name, "@")]
		err = kiln.Errorf(kiln.Invalid, "%q is a version of the alias %q, which has no versions itself; see: kiln image "+
			"history %s", name, alias, alias)
	}
	return a, err
}

// standing leaves out the versions that an alias was rolled back from: the first of
// the others is the present one.
func standing(history []Version) []Version {
	return slices.DeleteFunc(slices.Clone(history), func(v Version) bool { return !v.RolledBackAt.IsZero() })
}

// supersede makes an image, to which an alias moved, the newer version of the one that
// it left, if that has lost its last alias.
func supersede(ctx context.Context, tx *db.Tx, old, now kiln.Fingerprint) error {
	if old.IsZero() || old == now {
		return nil
	}
	img, err := whole(ctx, tx, now)
	if err != nil {
		return err
	}
	if !img.ReplacedBy.IsZero() { // it is the present version again
		img.ReplacedBy, img.ReplacedAt = kiln.Fingerprint{}, time.Time{}
		if err := tx.UpdateImage(ctx, img); err != nil {
			return err
		}
	}
	was, err := imageOf(ctx, tx, old, false)
	if errors.Is(err, kiln.NotFound) || err == nil && (len(was.Aliases) > 0 || was.Damage != "") {
		return nil
	}
	if err != nil {
		return err
	}
	was.ReplacedBy, was.ReplacedAt = now, time.Now()
	return tx.UpdateImage(ctx, was)
}

// whole gives an image, without its files, that is to be used or changed. Errors:
// NotFound, Integrity when its row is damaged.
func whole(ctx context.Context, tx *db.Tx, fp kiln.Fingerprint) (kiln.Image, error) {
	img, err := imageOf(ctx, tx, fp, false)
	if err == nil {
		err = img.Whole()
	}
	return img, err
}

// RollBack points an alias to the image that it pointed to n versions ago, and gives
// both images. Updates of the one it leaves are updates of the other from then on; see
// RolledBackFrom for where they stop. Errors: NotFound when there is no such alias or
// version, or its image was deleted; Invalid for an n below 1.
func (s *Store) RollBack(ctx context.Context, name string, n int) (from, to kiln.Image, err error) {
	if n < 1 {
		return from, to, kiln.Errorf(kiln.Invalid, "%d is not how many versions to go back: 1, 2 …", n)
	}
	if _, err := s.aliasItself(ctx, name); err != nil {
		return from, to, err
	}
	err = s.db.Tx(ctx, func(tx *db.Tx) error {
		a, err := tx.Alias(ctx, name)
		if err != nil {
			return err
		}
		history, err := tx.History(ctx, name)
		if err != nil {
			return err
		}
		versions := standing(history)
		if n >= len(versions) {
			return kiln.Errorf(kiln.NotFound, "%s has no version %d to go back to: it has %d; see: kiln image history %s", name,
				n, len(versions), name)
		}
		to, err = whole(ctx, tx, versions[n].Fingerprint)
		if errors.Is(err, kiln.NotFound) {
			err = kiln.Errorf(kiln.NotFound, "%s can't go back to version %d: its image %s was deleted "+
				"(images.keep_versions says how many are kept); see: kiln image history %s", name, n,
				versions[n].Fingerprint.Short(), name)
		}
		if err != nil {
			return err
		}
		if from, err = imageOf(ctx, tx, a.Target, false); err != nil {
			return err
		}
		a.Target = to.Fingerprint
		if err := errors.Join(tx.RollBack(ctx, name, n), tx.SetAlias(ctx, a)); err != nil {
			return err
		}
		return handBack(ctx, tx, versions[:n], &to)
	})
	return from, to, err
}

// handBack makes an image the successor of the versions that an alias was rolled back
// from, and leaves their updates to it.
func handBack(ctx context.Context, tx *db.Tx, versions []Version, to *kiln.Image) error {
	to.ReplacedBy, to.ReplacedAt = kiln.Fingerprint{}, time.Time{}
	for n, v := range versions {
		img, err := whole(ctx, tx, v.Fingerprint)
		if errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Integrity) || v.Fingerprint == to.Fingerprint {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 && img.AutoUpdate && !to.UpdatedElsewhere(img.Origin) {
			to.AutoUpdate, to.Origin = true, img.Origin
		}
		if len(img.Aliases) > 0 {
			continue // it is still somebody's present version
		}
		img.ReplacedBy, img.ReplacedAt, img.AutoUpdate = to.Fingerprint, time.Now(), false
		if err := tx.UpdateImage(ctx, img); err != nil {
			return err
		}
	}
	return tx.UpdateImage(ctx, *to)
}

// RolledBackFrom gives the images that the aliases of one were rolled back from, the
// newest version first, until a newer one comes: updates leave them out.
func (s *Store) RolledBackFrom(ctx context.Context, to kiln.Fingerprint) ([]kiln.Fingerprint, error) {
	return s.db.RolledBackFrom(ctx, to)
}

// Followed gives an alias that once pointed to an image, here or not, and where it points
// now. The error is NotFound if there is none.
func (s *Store) Followed(ctx context.Context, fp kiln.Fingerprint) (kiln.Alias, error) {
	return s.db.Followed(ctx, fp)
}

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
	was, err := whole(ctx, tx, old)
	if errors.Is(err, kiln.NotFound) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	img, err := whole(ctx, tx, now)
	if err != nil {
		return err
	}
	if img.UpdatedElsewhere(was.Origin) {
		return replaceCached(ctx, tx, was, img)
	}
	maps.Copy(img.Properties, was.Own)
	dropEmpty(img.Properties)
	img.Own, img.Public, img.AutoUpdate, img.Cached = was.Own, was.Public, was.AutoUpdate, was.Cached
	img.Profiles, img.LastUsedAt, img.Origin = was.Profiles, was.LastUsedAt, was.Origin
	img.ReplacedBy, img.ReplacedAt = kiln.Fingerprint{}, time.Time{}
	was.ReplacedBy, was.ReplacedAt, was.AutoUpdate = now, time.Now(), false
	return errors.Join(tx.UpdateImage(ctx, img), tx.UpdateImage(ctx, was), tx.MoveAliases(ctx, old, now))
}

// replaceCached is replace by an image that is updated from elsewhere, and goes on being so:
// nothing goes over to it of an image that was cached. The error is Conflict for one that
// somebody keeps.
func replaceCached(ctx context.Context, tx *db.Tx, was, img kiln.Image) error {
	if !was.Cached || len(was.Aliases) > 0 {
		return kiln.Errorf(kiln.Conflict, "image %s stays as it is: its newest version, %s, which %q of %s means, is here "+
			"already and is updated from %q of %s; it is updated again when the two names mean different images, or when the "+
			"other one isn't updated any more (kiln image edit %s)", was.Fingerprint.Short(), img.Fingerprint.Short(),
			was.Origin.Alias, was.Origin.Server, img.Origin.Alias, img.Origin.Server, img.Fingerprint.Short())
	}
	was.ReplacedBy, was.ReplacedAt, was.AutoUpdate = img.Fingerprint, time.Now(), false
	return tx.UpdateImage(ctx, was)
}

// Replace makes an image that is here the new version of another. The error is Conflict
// when that one is kept up to date from elsewhere.
func (s *Store) Replace(ctx context.Context, old, now kiln.Fingerprint) error {
	return s.db.Tx(ctx, func(tx *db.Tx) error { return replace(ctx, tx, old, now) })
}

// Replaced gives the images that were replaced by one.
func (s *Store) Replaced(ctx context.Context, by kiln.Fingerprint) ([]kiln.Image, error) {
	return s.db.Images(ctx, db.ImageQuery{Replaced: by})
}

// Apply lays what somebody says over an image that is here, as Put does. Aliases
// that other images have are moved with moveAliases, else a Conflict.
// Errors: NotFound, Invalid, Conflict, Integrity for what is no signature of the image.
func (s *Store) Apply(ctx context.Context, fp kiln.Fingerprint, given kiln.Image, moveAliases bool) error {
	for _, a := range given.Aliases {
		if err := kiln.CheckAlias(a.Name); err != nil {
			return err
		}
	}
	return s.db.Tx(ctx, func(tx *db.Tx) error {
		here, err := whole(ctx, tx, fp)
		if err != nil {
			return err
		}
		if err := checkSignature(given.Signature, fp); err != nil {
			return err
		}
		img, err := laidOver(here, given)
		if err != nil {
			return err
		}
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
