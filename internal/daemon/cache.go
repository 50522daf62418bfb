package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/metrics"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/store"
)

// cachedImage gives the image of a remote that an instance is to be made from. It
// is fetched if it isn't here. By fingerprint nothing is asked when it is here; by
// alias, the remote is asked what that means today, and when it doesn't answer, or
// isn't to be asked, what it meant last does, with a warning.
func (d *Daemon) cachedImage(ctx context.Context, o *op.Operation, s Source) (kiln.Image, error) {
	spec := PullSpec{Remote: s.Remote, Name: s.Alias, IsAlias: true, Secret: s.Secret, Project: s.Project,
		ImportSpec: ImportSpec{Cached: true}}
	var damaged *kiln.Image // that is here, perhaps with a tree
	if s.Alias == "" {
		spec.Name, spec.IsAlias = s.Fingerprint, false
		img, err := d.Images.ByPrefix(ctx, s.Fingerprint)
		switch signed := d.checkSigned(ctx, s.Remote, img, spec.Name); {
		case err == nil && img.Damage != "":
			return img, img.Whole()
		case err == nil && img.Missing == "" && signed == nil:
			d.Counters.Pulled(metrics.PullHit)
			return img, nil
		}
		if err == nil {
			damaged = &img
		}
	}
	last, err := d.lastOf(ctx, spec.origin())
	if err != nil {
		return kiln.Image{}, err
	}
	last = cmp.Or(last, damaged)
	if last != nil && last.Origin != nil { // who pinned a key did it for everybody here
		spec.Remote.ImageKey = cmp.Or(spec.Remote.ImageKey, last.Origin.ImageKey)
	}
	if s.Offline {
		if last == nil {
			return kiln.Image{}, kiln.Errorf(kiln.NotFound, "image %q of %s is not here, and --offline says not to ask for it",
				spec.Name, s.Remote.Server)
		}
		d.Counters.Pulled(metrics.PullHit)
		return *last, d.refusedHere(ctx, spec, *last)
	}
	img, err := d.fetchCached(ctx, o, spec, last)
	if away(err) && last != nil && ctx.Err() == nil {
		d.warn(o, fmt.Sprintf("%s can't be reached (%v); using the image of %s that is here", s.Remote.Server, err,
			last.UploadedAt.UTC().Format("2006/01/02 15:04 MST")))
		d.Counters.Pulled(metrics.PullHit)
		return *last, d.refusedHere(ctx, spec, *last)
	}
	return img, err
}

// refusedHere says why an image that is here can't stand in for what a name means at its
// remote, which isn't asked: it isn't signed as it has to be. The error is Integrity.
func (d *Daemon) refusedHere(ctx context.Context, spec PullSpec, img kiln.Image) error {
	err := d.refused(ctx, spec.Remote, spec.Name, d.checkSigned(ctx, spec.Remote, img, spec.Name))
	if err == nil {
		return nil
	}
	return kiln.Errorf(kiln.KindOf(err), "the image %s, which is here for %q of %s, is refused: %w",
		img.Fingerprint.Short(), spec.Name, spec.Remote.Server, err)
}

// away reports whether an error is that of a server that isn't there at the moment.
func away(err error) bool {
	return errors.Is(err, kiln.Network) || errors.Is(err, kiln.Timeout)
}

// lastOf gives the newest image here that came from an origin, if an instance can be made
// of it; nil: there is none.
func (d *Daemon) lastOf(ctx context.Context, origin *kiln.Origin) (*kiln.Image, error) {
	if origin == nil {
		return nil, nil
	}
	list, err := d.Images.List(ctx, store.Query{Origin: origin, Files: true})
	list = slices.DeleteFunc(list, func(i kiln.Image) bool { return i.Damage != "" || !i.ReplacedBy.IsZero() })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	newest := slices.MaxFunc(list, func(a, b kiln.Image) int { return a.UploadedAt.Compare(b.UploadedAt) })
	has, err := d.Images.Has(ctx, newest.Fingerprint)
	if err != nil || !has && !d.pool.HasImage(newest.Fingerprint) {
		return nil, err
	}
	return &newest, nil
}

// fetchCached gives what a name means at a remote today. It takes the place of what
// it meant last, unless that is a copy that somebody made to stay as it is.
func (d *Daemon) fetchCached(ctx context.Context, o *op.Operation, spec PullSpec, last *kiln.Image) (kiln.Image,
	error) {
	if err := d.mayFetch(ctx, spec.Remote); err != nil {
		return kiln.Image{}, err
	}
	img, err := d.find(ctx, o, spec, false)
	if err != nil {
		return kiln.Image{}, err
	}
	if img.Architecture != "" { // else its metadata tells
		if err := runsHere(img); err != nil {
			return kiln.Image{}, err // before it is fetched
		}
	}
	auto, err := d.setting(ctx, updateCached)
	if err != nil {
		return kiln.Image{}, err
	}
	replaces := kiln.Fingerprint{}
	if last != nil && last.Fingerprint != img.Fingerprint && (last.Cached || last.AutoUpdate) {
		left, err := d.leftOut(ctx, nil, *last, spec, img)
		if err != nil {
			return kiln.Image{}, err
		}
		if !left {
			replaces = last.Fingerprint
		}
	}
	before, known, err := d.here(ctx, spec, img)
	if err != nil {
		return before, err
	}
	if known && before.UpdatedElsewhere(spec.origin()) {
		replaces = kiln.Fingerprint{} // it isn't the next version of what this name meant here
	}
	if known && replaces.IsZero() {
		d.Counters.Pulled(metrics.PullHit)
		return d.vouched(ctx, spec.Remote, img, before)
	}
	got, err := d.bring(ctx, o, spec, img, bringOptions{replaces: replaces, proof: !replaces.IsZero()})
	if err != nil {
		return kiln.Image{}, err
	}
	if !replaces.IsZero() {
		err = d.dropVersions(ctx, got.Fingerprint)
	} else if !known {
		err = d.Images.Apply(ctx, got.Fingerprint, kiln.Image{Cached: true, AutoUpdate: kiln.IsTrue(auto) &&
			spec.origin() != nil, Origin: spec.origin()}, false)
	}
	if err != nil {
		return got, err
	}
	return d.Images.Get(ctx, got.Fingerprint)
}
