package remote

import (
	"context"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// Pinned gives a source whose Find refuses every image that isn't signed with a key, as
// what it was asked for by: the error is Integrity. What is listed isn't looked at. The
// error is Invalid for what is no key.
func Pinned(src kiln.Source, key string) (kiln.Source, error) {
	k, err := signing.ParseKey(key)
	return &pinned{src, k}, err
}

type pinned struct {
	kiln.Source
	key signing.Key
}

// Find is kiln.Source's.
func (p *pinned) Find(ctx context.Context, name string) (kiln.Image, error) {
	img, err := p.Source.Find(ctx, name)
	if err != nil {
		return kiln.Image{}, err
	}
	if err := signing.Check(p.key, img, name); err != nil {
		return kiln.Image{}, kiln.Errorf(kiln.KindOf(err), "%w; nothing was fetched: ask who runs the server", err)
	}
	return img, nil
}

// List gives the images that may be seen.
func (p *pinned) List(ctx context.Context) ([]kiln.Image, error) {
	all, ok := p.Source.(interface {
		List(context.Context) ([]kiln.Image, error)
	})
	if !ok {
		return nil, kiln.Errorf(kiln.Unsupported, "this server can't tell which images there are")
	}
	return all.List(ctx)
}
