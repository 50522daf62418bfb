package daemon

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/store"
)

// ImportSpec is what somebody who brings an image says of it.
type ImportSpec struct {
	Filename    string // for people
	Public      bool
	AutoUpdate  bool
	Properties  map[string]string // laid over those of metadata.yaml
	Profiles    []string          // nil: "default"
	Aliases     []kiln.Alias
	MoveAliases bool // take aliases away from other images instead of failing
	Reuse       bool // delete images that lose their last alias by that
	Fingerprint kiln.Fingerprint
	ExpiresAt   time.Time
	Cached      bool   // nobody asked to keep it
	Secret      string // of who brings it without being trusted
}

// ImportImage reads s to its end into the store, whose bytes must be there when
// it returns: it ends with ctx. The operation it gives is over at once; its
// metadata has the "fingerprint" and the "size" of the image, also when it
// failed because the image was there already. Who brought it with a secret waits
// for the operation with that.
func (d *Daemon) ImportImage(ctx context.Context, spec ImportSpec, s kiln.Stream) *op.Operation {
	img, err := d.importImage(ctx, spec, s)
	meta := map[string]any{}
	if spec.Secret != "" {
		meta["secret"] = spec.Secret
		if errors.Is(err, kiln.Conflict) && !img.Fingerprint.IsZero() {
			err = nil // a copy of what is here already succeeds
		}
	}
	var resources map[string][]string
	if !img.Fingerprint.IsZero() {
		meta["fingerprint"], meta["size"] = img.Fingerprint.String(), strconv.FormatInt(img.Size, 10)
		resources = map[string][]string{"images": {imageURL(img.Fingerprint)}}
	}
	return d.Ops.Start("Downloading image", op.Options{Metadata: meta, Resources: resources},
		func(context.Context, *op.Operation) error { return err })
}

func (d *Daemon) importImage(ctx context.Context, spec ImportSpec, s kiln.Stream) (kiln.Image, error) {
	profiles := spec.Profiles
	if profiles == nil {
		profiles = []string{defaultProfile}
	}
	if err := d.checkProfiles(ctx, profiles); err != nil {
		return kiln.Image{}, err
	}
	img := kiln.Image{
		Fingerprint: spec.Fingerprint, Filename: spec.Filename, Public: spec.Public, AutoUpdate: spec.AutoUpdate,
		Properties: spec.Properties, Profiles: profiles, Aliases: spec.Aliases, ExpiresAt: spec.ExpiresAt,
		Cached: spec.Cached,
	}
	losers, err := d.losers(ctx, spec)
	if err != nil {
		return kiln.Image{}, err
	}
	got, err := d.Images.With(store.PutOptions{MoveAliases: spec.MoveAliases}).Put(ctx, img, s)
	exists := errors.Is(err, kiln.Conflict) && !got.Fingerprint.IsZero()
	if err != nil && !exists {
		return got, err
	}
	if !exists {
		d.tell("image-created", imageURL(got.Fingerprint), map[string]any{"type": got.Type})
	}
	for _, a := range spec.Aliases {
		d.tell("image-alias-created", aliasURL(a.Name), map[string]any{"target": got.Fingerprint.String()})
	}
	for _, fp := range losers {
		if fp != got.Fingerprint {
			err = errors.Join(err, d.deleteImage(ctx, fp))
		}
	}
	return got, err
}

// losers gives the images that a reusing import leaves without an alias.
func (d *Daemon) losers(ctx context.Context, spec ImportSpec) ([]kiln.Fingerprint, error) {
	if !spec.Reuse {
		return nil, nil
	}
	taken := func(a kiln.Alias) bool {
		return slices.ContainsFunc(spec.Aliases, func(b kiln.Alias) bool { return a.Name == b.Name })
	}
	var list []kiln.Fingerprint
	for _, a := range spec.Aliases {
		old, err := d.Images.Alias(ctx, a.Name)
		if errors.Is(err, kiln.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		img, err := d.Images.Get(ctx, old.Target)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(img.Aliases, func(a kiln.Alias) bool { return !taken(a) }) &&
			!slices.Contains(list, img.Fingerprint) {
			list = append(list, img.Fingerprint)
		}
	}
	return list, nil
}
