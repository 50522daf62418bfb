package cli

import (
	"context"

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
