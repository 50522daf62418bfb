package daemon

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/store"
)

// ImportSpec is what somebody who brings an image says of it.
type ImportSpec struct {
	Filename   string // for people
	Public     bool
	AutoUpdate bool
	Properties map[string]string // laid over those of metadata.yaml
	Signature  string            // "": none; it has to be of the image
	Profiles   []string          // nil: "default"
	Aliases    []kiln.Alias
	// MoveAliases moves aliases from other images instead of failing. An image that
	// loses its last alias by it is an older version from then on.
	MoveAliases bool
	Fingerprint kiln.Fingerprint
	ExpiresAt   time.Time
	Cached      bool   // nobody asked to keep it
	ImageKey    string // of what is cached: with which it has to be signed; "": see mayArrive
	Secret      string // of who brings it without being trusted

	warn func(string) // see store.PutOptions
}

// TakeSignature has what is among the properties be the signature, as it travels.
func (s *ImportSpec) TakeSignature() {
	img := kiln.Image{Properties: s.Properties}
	img.TakeSignature()
	s.Properties, s.Signature = img.Properties, img.Signature
}

// ImportImage reads s to its end into the store, whose bytes must be there when
// it returns: it ends with ctx. The operation it gives is over at once; its
// metadata has the "fingerprint" and the "size" of the image, also when it
// failed because the image was there already, and a "warning" if need be. Who brought it with a secret waits
// for the operation with that.
func (d *Daemon) ImportImage(ctx context.Context, spec ImportSpec, s kiln.Stream) *op.Operation {
	meta := map[string]any{}
	spec.warn = func(text string) { meta["warning"] = text }
	public := d.publicAliases(ctx, spec.Aliases)
	img, err := kiln.Copy(ctx, keeper{d: d, spec: spec}, brought{s}, spec.Filename)
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
		if text := d.endOfUpdates(ctx, img.Fingerprint, public); text != "" && meta["warning"] == nil {
			meta["warning"] = text
		}
	}
	return d.Ops.Start(ctx, "Importing image", op.Options{Metadata: meta, Resources: resources},
		func(context.Context, *op.Operation) error { return err })
}

// brought is the source of the one image that somebody brings. What it is, its bytes
// tell.
type brought struct{ kiln.Stream }

// Find implements kiln.Source.
func (b brought) Find(context.Context, string) (kiln.Image, error) { return kiln.Image{}, nil }

// Open implements kiln.Source.
func (b brought) Open(context.Context, kiln.Image) (kiln.Stream, error) { return b.Stream, nil }

// keeper is the store for what is imported or published: the image gets what the spec
// says, whoever listens hears of it, and versions that are too old go.
type keeper struct {
	d            *Daemon
	spec         ImportSpec
	keepExisting bool // an image that is here already stays as it is
}

// Has implements kiln.Sink.
func (k keeper) Has(ctx context.Context, fp kiln.Fingerprint) (bool, error) {
	return k.d.Images.Has(ctx, fp)
}

// Put implements kiln.Sink. An image that is here already is a Conflict, and is
// returned.
func (k keeper) Put(ctx context.Context, _ kiln.Image, s kiln.Stream) (kiln.Image, error) {
	d, spec := k.d, k.spec
	profiles := spec.Profiles
	if profiles == nil {
		profiles = []string{defaultProfile}
	}
	if err := d.checkProfiles(ctx, profiles); err != nil {
		return kiln.Image{}, err
	}
	if spec.Cached {
		if err := d.mayArrive(ctx, spec); err != nil {
			return kiln.Image{}, err
		}
	}
	options := store.PutOptions{MoveAliases: spec.MoveAliases, KeepExisting: k.keepExisting, Warn: spec.warn}
	got, err := d.Images.With(options).Put(ctx, kiln.Image{
		Fingerprint: spec.Fingerprint, Filename: spec.Filename, Public: spec.Public, AutoUpdate: spec.AutoUpdate,
		Properties: spec.Properties, Signature: spec.Signature,
		Profiles: profiles, Aliases: spec.Aliases, ExpiresAt: spec.ExpiresAt,
		Cached: spec.Cached,
	}, s)
	exists := errors.Is(err, kiln.Conflict) && !got.Fingerprint.IsZero()
	if err != nil && (!exists || k.keepExisting) {
		return got, err
	}
	if !exists {
		d.tell(ctx, "image-created", imageURL(got.Fingerprint), map[string]any{"type": got.Type})
	}
	if err := d.named(ctx, got.Fingerprint, spec.Aliases...); err != nil {
		return got, err
	}
	return got, err
}

// named tells that an image got aliases, and drops the versions before it that are too
// old by now.
func (d *Daemon) named(ctx context.Context, fp kiln.Fingerprint, aliases ...kiln.Alias) error {
	for _, a := range aliases {
		d.tell(ctx, "image-alias-created", aliasURL(a.Name), map[string]any{"target": fp.String()})
	}
	if len(aliases) == 0 {
		return nil
	}
	return d.dropVersions(ctx, fp)
}
