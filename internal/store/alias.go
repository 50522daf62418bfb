package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// Aliases gives every alias, by name.
func (s *Store) Aliases(ctx context.Context) ([]kiln.Alias, error) { return s.db.Aliases(ctx) }

// Alias gives one alias. "name@1" is where the alias name pointed before it pointed
// to what it does now, and so on. The error is NotFound.
func (s *Store) Alias(ctx context.Context, name string) (kiln.Alias, error) {
	a, err := s.db.Alias(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		return s.aliasVersion(ctx, name, false)
	}
	return a, err
}

// aliasVersion finds an older version of an alias, that is an image which is here.
func (s *Store) aliasVersion(ctx context.Context, word string, public bool) (kiln.Alias, error) {
	missing := kiln.Errorf(kiln.NotFound, "Image alias not found")
	at := strings.LastIndex(word, "@")
	if at <= 0 {
		return kiln.Alias{}, missing
	}
	n, err := strconv.ParseUint(word[at+1:], 10, 16)
	if err != nil {
		return kiln.Alias{}, missing
	}
	look := s.db.Alias
	if public {
		look = s.db.PublicAlias
	}
	if _, err := look(ctx, word[:at]); err != nil {
		if errors.Is(err, kiln.NotFound) {
			err = missing
		}
		return kiln.Alias{}, err
	}
	history, err := s.db.History(ctx, word[:at])
	if err != nil {
		return kiln.Alias{}, err
	}
	if int(n) >= len(history) {
		return kiln.Alias{}, missing
	}
	fp := history[n].Fingerprint
	list, err := s.db.Images(ctx, db.ImageQuery{Fingerprint: fp, Public: public})
	if err == nil && len(list) == 0 {
		err = missing
		if !public {
			err = kiln.Errorf(kiln.NotFound, "Image alias not found: version %d of %q, %s, isn't here any more", n, word[:at],
				fp.Short())
		}
	}
	return kiln.Alias{Name: word, Target: fp}, err
}

// A Version is an image that an alias points, or pointed, to.
type Version = db.Version

// History gives the images that an alias pointed to, the present one first. They may
// be gone. The error is NotFound.
func (s *Store) History(ctx context.Context, name string) ([]Version, error) {
	if _, err := s.Alias(ctx, name); err != nil {
		return nil, err
	}
	return s.db.History(ctx, name)
}

// PublicAlias gives one alias of a public image. Errors are as if others had none.
func (s *Store) PublicAlias(ctx context.Context, name string) (kiln.Alias, error) {
	a, err := s.db.PublicAlias(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		return s.aliasVersion(ctx, name, true)
	}
	return a, err
}

// CreateAlias gives an image one more name; the same one again is no error.
// Errors: Invalid, NotFound, Conflict.
func (s *Store) CreateAlias(ctx context.Context, a kiln.Alias) error {
	if err := kiln.CheckAlias(a.Name); err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *db.Tx) error { return setAlias(ctx, tx, a, false) })
}

// setAlias points an alias to an image. One that points elsewhere is moved or a
// Conflict.
func setAlias(ctx context.Context, tx *db.Tx, a kiln.Alias, move bool) error {
	old, err := tx.Alias(ctx, a.Name)
	switch {
	case err == nil && old.Target == a.Target && (a.Description == "" || a.Description == old.Description):
		return nil
	case err == nil && old.Target != a.Target && !move:
		return kiln.Errorf(kiln.Conflict, "Alias %q already exists", a.Name)
	case err != nil && !errors.Is(err, kiln.NotFound):
		return err
	}
	if err := tx.SetAlias(ctx, a); err != nil || old.Target.IsZero() || old.Target == a.Target {
		return err
	}
	return supersede(ctx, tx, old.Target, a.Target)
}

// supersede makes an image the newer version of one that has lost its last alias to
// it.
func supersede(ctx context.Context, tx *db.Tx, old, now kiln.Fingerprint) error {
	list, err := tx.Images(ctx, db.ImageQuery{Fingerprint: old})
	if err != nil || len(list) == 0 || len(list[0].Aliases) > 0 {
		return err
	}
	was := list[0]
	was.ReplacedBy, was.ReplacedAt = now, time.Now()
	if err := tx.UpdateImage(ctx, was); err != nil {
		return err
	}
	if list, err = tx.Images(ctx, db.ImageQuery{Fingerprint: now}); err != nil || len(list) == 0 {
		return err
	}
	img := list[0]
	img.ReplacedBy, img.ReplacedAt = kiln.Fingerprint{}, time.Time{}
	return tx.UpdateImage(ctx, img)
}

// UpdateAlias changes the target and the description of an alias.
// The error is NotFound.
func (s *Store) UpdateAlias(ctx context.Context, a kiln.Alias) error {
	return s.db.Tx(ctx, func(tx *db.Tx) error {
		old, err := tx.Alias(ctx, a.Name)
		if err != nil {
			return err
		}
		if err := tx.SetAlias(ctx, a); err != nil || old.Target == a.Target {
			return err
		}
		return supersede(ctx, tx, old.Target, a.Target)
	})
}

// RenameAlias gives an alias another name. Errors: Invalid, NotFound, Conflict.
func (s *Store) RenameAlias(ctx context.Context, from, to string) error {
	if err := kiln.CheckAlias(to); err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *db.Tx) error { return tx.RenameAlias(ctx, from, to) })
}

// DeleteAlias removes an alias; the image stays. The error is NotFound.
func (s *Store) DeleteAlias(ctx context.Context, name string) error {
	return s.db.Tx(ctx, func(tx *db.Tx) error { return tx.DeleteAlias(ctx, name) })
}

// Taken says which of some aliases point to other images: that is a Conflict.
func (s *Store) Taken(ctx context.Context, aliases []kiln.Alias, fp kiln.Fingerprint) error {
	for _, a := range aliases {
		old, err := s.db.Alias(ctx, a.Name)
		if err == nil && old.Target != fp {
			return kiln.Errorf(kiln.Conflict, "Alias already exists: %s", a.Name)
		}
		if err != nil && !errors.Is(err, kiln.NotFound) {
			return err
		}
	}
	return nil
}
