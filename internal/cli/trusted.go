package cli

import (
	"context"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/place"
)

// trustedServer asks a server what it can do, and whether it trusts this client, so
// that nothing begins that would be refused in the end. The error is Denied if it
// doesn't.
func trustedServer(ctx context.Context, at place.Place) (api.Server, error) {
	var s api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &s); err != nil {
		return s, err
	}
	if s.Auth != "trusted" {
		return s, kiln.Errorf(kiln.Denied, "not authorized: the server %q doesn't trust this client; get a token there with "+
			"\"kiln config trust add --name <client>\", and add the remote again: kiln remote add <name> <token>", at.Remote)
	}
	return s, nil
}

// hasExtension says that a server can't do something, unless it trusts this client and has an
// extension of the API. Errors: Denied, Unsupported.
func hasExtension(ctx context.Context, at place.Place, extension, what string) error {
	s, err := trustedServer(ctx, at)
	if err == nil && !slices.Contains(s.APIExtensions, extension) {
		err = kiln.Errorf(kiln.Unsupported, "this server can't %s: it is another version of kiln, or LXD or Incus", what)
	}
	return err
}
