package cli

import (
	"context"
	"errors"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/place"
)

// A thing is what a word means, on a server that has it.
type thing struct {
	at   place.Place
	path string // of the API
	name string // for people
}

// A lookup finds what a word means.
type lookup = func(ctx context.Context, word string) (thing, error)

// named finds the things of a noun, such as "profile", which are at path.
func (a *app) named(noun string, path func(name string) string) lookup {
	return func(ctx context.Context, word string) (thing, error) {
		at, err := a.At(word)
		if err != nil {
			return thing{}, err
		}
		t := thing{at, path(at.Name), at.Name}
		_, err = at.Get(ctx, t.path, nil, nil)
		return t, a.missing(ctx, at, noun, err)
	}
}

// deleteAll deletes what words mean. All are looked for before any is gone. What it says of
// each has its name; "" says nothing.
func (a *app) deleteAll(ctx context.Context, words []string, find lookup, said string) error {
	all, err := allThere(words, func(word string) (thing, error) { return find(ctx, word) })
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	var errs []error
	for _, t := range all {
		id := t.at.Remote + t.path
		if seen[id] {
			continue
		}
		seen[id] = true
		err := t.at.Change(ctx, http.MethodDelete, t.path, nil, "")
		if err == nil && said != "" {
			a.say(said, t.name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// allThere looks at each of several things that are to be deleted. The error is about all
// that can't be, and says that nothing was.
func allThere[T any](words []string, look func(word string) (T, error)) ([]T, error) {
	var all []T
	err := each(words, func(word string) error {
		t, err := look(word)
		all = append(all, t)
		return err
	})
	if err != nil && len(words) > 1 {
		err = kiln.Errorf(kiln.KindOf(err), "%w; nothing was deleted", err)
	}
	return all, err
}
