package cli

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/place"
)

// collections are where the names of things are listed, by what they are called.
func collections() map[string]string {
	return map[string]string{
		"instance": "/1.0/instances", "profile": "/1.0/profiles", "alias": "/1.0/images/aliases",
		"mirror": "/1.0/kiln/mirrors", "network": "/1.0/networks", "pool": "/1.0/storage-pools", "warning": "/1.0/warnings",
		"project": "/1.0/projects", "operation": "/1.0/operations",
	}
}

// missing makes an error about a thing that isn't there the same everywhere, with the
// name that was probably meant. An error about something else stays what it is.
func (a *app) missing(ctx context.Context, at place.Place, noun string, err error) error {
	if err == nil || kiln.KindOf(err) != kiln.NotFound {
		return err
	}
	names, lerr := nameList(ctx, at, collections()[noun])
	if lerr != nil || slices.Contains(names, at.Name) {
		return err
	}
	return a.typed(at, place.Missing(noun, at.Name, names))
}

// typed is an error about what is on a server, in which commands are as they have to be typed.
func (a *app) typed(at place.Place, err error) error {
	if err == nil {
		return nil
	}
	remote, project := a.Spelled(at.Remote)
	if text := a.Retell(err.Error(), remote, project); text != err.Error() {
		return kiln.Errorf(kiln.KindOf(err), "%s", text)
	}
	return err
}

// nameList gives the names of the things of a collection.
func nameList(ctx context.Context, at place.Place, collection string) ([]string, error) {
	var answer any
	if _, err := at.Get(ctx, collection, nil, &answer); err != nil {
		return nil, err
	}
	items, _ := answer.([]any)                 // URLs, or what they lead to
	if by, ok := answer.(map[string]any); ok { // as operations by their status
		for _, list := range by {
			some, _ := list.([]any)
			items = append(items, some...)
		}
	}
	var names []string
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			if name, ok := object["name"].(string); ok {
				names = append(names, name)
			}
			continue
		}
		u, _ := item.(string)
		u, _, _ = strings.Cut(u, "?")
		if name, err := url.PathUnescape(strings.TrimPrefix(u, collection+"/")); err == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// server finds the server that a command is about whose only argument is that: none, or
// "srv:".
func (a *app) server(args []string) (place.Place, error) {
	at, rest, err := a.Server(args)
	if err != nil || len(rest) == 0 {
		return at, err
	}
	return at, usageError{fmt.Errorf("%q names no server; write <remote>: with the colon at the end; see: kiln remote "+
		"list", rest[0])}
}
