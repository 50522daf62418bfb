package daemon

import (
	"context"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
)

// checkSigned says whether an image that is here is signed as the images of a remote have to be,
// for what it is called there, by what was known when the remote was asked last. The error is
// Integrity.
func (d *Daemon) checkSigned(ctx context.Context, r kiln.Remote, img kiln.Image, name string) error {
	if r.ImageKey == "" {
		return nil
	}
	by, err := d.remotes.Known(ctx, r)
	if err != nil {
		return err
	}
	return by.Check(img, name)
}

// checks gives what says whether an image at a remote is signed as it has to be, for what it is
// called there. The errors are those of remote.Opener.Authority.
func (d *Daemon) checks(ctx context.Context, r kiln.Remote) (func(kiln.Image, string) error, error) {
	if r.ImageKey == "" {
		return func(kiln.Image, string) error { return nil }, nil
	}
	by, err := d.remotes.Authority(ctx, r, remote.Access{})
	return by.Check, err
}

// sameOwner reports whether two keys that images are pinned to are of one owner: one root has
// followed the other.
func (d *Daemon) sameOwner(ctx context.Context, a, b string) (bool, error) {
	if a == b || a == "" || b == "" {
		return a == b, nil
	}
	by, err := d.remotes.Known(ctx, kiln.Remote{ImageKey: a})
	if err != nil {
		return false, err
	}
	k, err := signing.ParseKey(b)
	return by.Is(k), err
}

// mayFetch says whether images of a remote may come here at all: with
// images.require_signature=always its key has to be pinned. The error is Integrity.
func (d *Daemon) mayFetch(ctx context.Context, r kiln.Remote) error {
	v, err := d.setting(ctx, requireSignature)
	if err != nil || v != "always" || r.ImageKey != "" {
		return err
	}
	return d.refused(ctx, r, "", kiln.Errorf(kiln.Integrity, "images of %s aren't checked by a key, and "+
		"images.require_signature is always here; pin the key of its images: kiln remote set-key <remote> <key>", r.Server))
}

// mayArrive is mayFetch for an image that a client brings along with an instance of another
// server: the client says with which key it has to be signed. The error is also Invalid.
func (d *Daemon) mayArrive(ctx context.Context, spec ImportSpec) error {
	fp := spec.Fingerprint.String()
	if spec.ImageKey != "" {
		img := kiln.Image{Fingerprint: spec.Fingerprint, Signature: spec.Signature}
		err := d.checkSigned(ctx, kiln.Remote{ImageKey: spec.ImageKey}, img, fp)
		if err != nil {
			return d.refused(ctx, kiln.Remote{ImageKey: spec.ImageKey}, fp,
				kiln.Errorf(kiln.KindOf(err), "the image %s is refused: %w", img.Fingerprint.Short(), err))
		}
		return nil
	}
	v, err := d.setting(ctx, requireSignature)
	if err != nil || v != "always" {
		return err
	}
	return d.refused(ctx, kiln.Remote{}, fp, kiln.Errorf(kiln.Integrity, "the image of an instance that a client brings "+
		"isn't checked by a key, and images.require_signature is always here; pin the key of its images (kiln remote "+
		"set-key <remote> <key>), or copy the image first: kiln image copy"))
}

// vouched notes of an image that came from a remote whose images are signed, or was here:
// the signature that was found to be good, and by which key the next version has to be.
func (d *Daemon) vouched(ctx context.Context, r kiln.Remote, found, here kiln.Image) (kiln.Image, error) {
	if r.ImageKey == "" {
		return here, nil
	}
	known := !cameFrom(here, r)
	if !known {
		var err error
		if known, err = d.sameOwner(ctx, here.Origin.ImageKey, r.ImageKey); err != nil {
			return here, err
		}
	}
	if known && here.Signature == found.Signature {
		return here, nil
	}
	err := d.Images.Update(ctx, here.Fingerprint, func(img *kiln.Image) error {
		img.Signature = found.Signature
		if cameFrom(*img, r) {
			img.Origin.ImageKey = r.ImageKey
		}
		return nil
	})
	if err != nil {
		return here, err
	}
	return d.Images.Get(ctx, here.Fingerprint)
}
