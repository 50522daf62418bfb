package store

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// Aliases gives the aliases of the projects that ctx is about, by name.
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
	versions := standing(history)
	if int(n) >= len(versions) {
		return kiln.Alias{}, missing
	}
	fp := versions[n].Fingerprint
	if fp.IsZero() { // its row is damaged
		return kiln.Alias{}, missing
	}
	list, err := s.db.Images(ctx, db.ImageQuery{Fingerprint: fp, Public: public})
	list = s.marked(list, public)
	if err == nil && len(list) == 0 {
		err = missing
		if !public {
			err = kiln.Errorf(kiln.NotFound, "Image alias not found: version %d of %q, %s, isn't here any more", n, word[:at],
				fp.Short())
		}
	}
	return kiln.Alias{Name: word, Target: fp}, err
}

// PublicAlias gives one alias of a public image. Errors are as if others had none.
func (s *Store) PublicAlias(ctx context.Context, name string) (kiln.Alias, error) {
	a, err := s.db.PublicAlias(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		return s.aliasVersion(ctx, name, true)
	}
	if err == nil && s.missing.of(a.Target) != "" {
		return kiln.Alias{}, kiln.Errorf(kiln.NotFound, "Image alias not found")
	}
	return a, err
}

// CreateAlias gives an image one more name. Errors: Invalid, NotFound for the image,
// Conflict when there is such an alias, of whatever image.
func (s *Store) CreateAlias(ctx context.Context, a kiln.Alias) error {
	if err := kiln.CheckAlias(a.Name); err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *db.Tx) error {
		if old, err := tx.Alias(ctx, a.Name); err == nil && old.Target == a.Target {
			return kiln.Errorf(kiln.Conflict, "Alias %q already exists: it points to this image", a.Name)
		} else if err == nil {
			return kiln.Errorf(kiln.Conflict, "Alias %q already exists: it points to image %s; to move it: kiln image alias "+
				"create --reuse %s %s", a.Name, old.Target.Short(), a.Name, a.Target.Short())
		} else if !errors.Is(err, kiln.NotFound) {
			return err
		}
		return setAlias(ctx, tx, a, false)
	})
}

// setAlias points an alias to an image. One that points elsewhere is moved or a
// Conflict. Clients that know no better move an alias by deleting it and making it
// anew, so where it pointed last counts as much as where it points.
func setAlias(ctx context.Context, tx *db.Tx, a kiln.Alias, move bool) error {
	old, err := tx.Alias(ctx, a.Name)
	switch {
	case err == nil && old.Damage == "" && old.Target == a.Target &&
		(a.Description == "" || a.Description == old.Description):
		return nil
	case err == nil && old.Target != a.Target && !move:
		return kiln.Errorf(kiln.Conflict, "Alias %q already exists", a.Name)
	case errors.Is(err, kiln.NotFound):
		history, err := tx.History(ctx, a.Name)
		if err != nil {
			return err
		}
		if versions := standing(history); len(versions) > 0 {
			old.Target = versions[0].Fingerprint
		}
	case err != nil:
		return err
	}
	return pointTo(ctx, tx, old.Target, a)
}

// pointTo writes an alias that pointed to another image before. Whoever gives an image a
// name wants to keep it, also if it was only cached.
func pointTo(ctx context.Context, tx *db.Tx, before kiln.Fingerprint, a kiln.Alias) error {
	if err := kiln.CheckDescription(a.Description); err != nil {
		return err
	}
	img, err := whole(ctx, tx, a.Target)
	if err != nil {
		return err
	}
	if err := tx.SetAlias(ctx, a); err != nil {
		return err
	}
	if img.Cached {
		img.Cached = false
		if err := tx.UpdateImage(ctx, img); err != nil {
			return err
		}
	}
	return supersede(ctx, tx, before, a.Target)
}

// damagedAlias is why an alias can only be listed, deleted and made anew.
func damagedAlias(a kiln.Alias) error {
	return kiln.Errorf(kiln.Integrity, "alias %q can't be used: %s; delete it (kiln image alias delete %s) and create it "+
		"again", a.Name, a.Damage, a.Name)
}

// UpdateAlias changes the target and the description of an alias, in one transaction,
// and gives it as it is then. Errors: NotFound, and those of change.
func (s *Store) UpdateAlias(ctx context.Context, name string, change func(*kiln.Alias) error) (a kiln.Alias,
	err error) {
	err = s.db.Tx(ctx, func(tx *db.Tx) error {
		old, err := tx.Alias(ctx, name)
		if err != nil {
			return err
		}
		if old.Damage != "" { // what can't be read would be overwritten
			return damagedAlias(old)
		}
		a = old
		if err := change(&a); err != nil {
			return err
		}
		a.Name = name
		return pointTo(ctx, tx, old.Target, a)
	})
	return a, err
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
	return s.db.Tx(db.Freeing(ctx), func(tx *db.Tx) error { return tx.DeleteAlias(ctx, name) })
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
