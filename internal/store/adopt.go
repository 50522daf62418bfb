package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// Adopt makes rows of records of one project, that of ctx, in one transaction: images with their aliases and the
// history of these. What rows there are of the same images and aliases is replaced. Of
// two images that claim an alias, the one that it pointed to last has it. It gives the
// aliases that exist then. The blobs aren't looked at.
func (s *Store) Adopt(ctx context.Context, records []Record) (aliases []string, err error) {
	if len(records) == 0 {
		return nil, nil
	}
	err = s.db.Tx(ctx, func(tx *db.Tx) error {
		var events []adoptedEvent
		named := map[string]adoptedAlias{}
		for _, r := range records {
			if err := adoptImage(ctx, tx, r.Image); err != nil {
				return kiln.Errorf(kiln.KindOf(err), "image %s: %w", r.Image.Fingerprint.Short(), err)
			}
			for _, e := range r.Events {
				events = append(events, adoptedEvent{e, r.Image.Fingerprint})
			}
			for _, a := range r.Image.Aliases {
				since := r.since(a.Name)
				if old, ok := named[a.Name]; !ok || since.After(old.since) {
					named[a.Name] = adoptedAlias{a, since}
				}
			}
		}
		if err := adoptEvents(ctx, tx, events); err != nil {
			return err
		}
		for name, a := range named {
			if err := tx.SetAlias(ctx, a.Alias); err != nil {
				return kiln.Errorf(kiln.KindOf(err), "alias %q: %w", name, err)
			}
			aliases = append(aliases, name)
		}
		return nil
	})
	slices.Sort(aliases)
	return aliases, err
}

type adoptedAlias struct {
	kiln.Alias
	since time.Time
}

type adoptedEvent struct {
	db.Event
	image kiln.Fingerprint
}

// since says when an alias began to point to the image.
func (r Record) since(alias string) time.Time {
	at := r.Image.UploadedAt
	for _, e := range r.Events {
		if e.Alias == alias {
			at = e.At
		}
	}
	return at
}

// adoptImage makes the row of an image, which nobody has used since it was lost: the
// time after which a cached one goes begins now.
func adoptImage(ctx context.Context, tx *db.Tx, img kiln.Image) error {
	if err := tx.DeleteImage(ctx, img.Fingerprint); err != nil && !errors.Is(err, kiln.NotFound) {
		return err
	}
	img.LastUsedAt = time.Now().UTC()
	if err := tx.CreateImage(ctx, img); err != nil {
		return err
	}
	return tx.UpdateImage(ctx, img) // by what it was replaced
}

// adoptEvents writes the history of aliases anew, in the order in which it was. What rows say
// of images that no record is of stays: an alias isn't to go back to what it was rolled back
// from.
func adoptEvents(ctx context.Context, tx *db.Tx, events []adoptedEvent) error {
	recorded, seen := map[kiln.Fingerprint]bool{}, map[string]bool{}
	for _, e := range events {
		recorded[e.image] = true
	}
	for _, e := range slices.Clone(events) {
		if seen[e.Alias] {
			continue
		}
		seen[e.Alias] = true
		rows, err := tx.History(ctx, e.Alias)
		if err != nil {
			return err
		}
		for _, r := range slices.Backward(rows) {
			if !recorded[r.Fingerprint] && !r.Fingerprint.IsZero() {
				events = append(events, adoptedEvent{db.Event{Alias: e.Alias, At: r.At, RolledBackAt: r.RolledBackAt},
					r.Fingerprint})
			}
		}
	}
	slices.SortStableFunc(events, func(a, b adoptedEvent) int { return a.At.Compare(b.At) })
	dropped := map[string]bool{}
	for _, e := range events {
		if !dropped[e.Alias] {
			if err := tx.DropHistory(ctx, e.Alias); err != nil {
				return err
			}
			dropped[e.Alias] = true
		}
		if err := tx.AddEvent(ctx, e.image, e.Event); err != nil {
			return err
		}
	}
	return nil
}

// Whole reports whether the files that a record names are there, with their sizes, and
// whether any is.
func (s *Store) Whole(r Record) (whole, some bool) {
	for _, f := range r.Image.Files {
		if _, err := s.blobs.Stat(f.Hash); err == nil {
			some = true
		}
	}
	return s.whole(r.Image), some
}
