package daemon

import (
	"context"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// checkSigned says whether an image, here or at its remote, is signed as the remote's images
// have to be, for what it is called there. The error is Integrity.
func checkSigned(r kiln.Remote, img kiln.Image, name string) error {
	return signing.CheckPinned(r.ImageKey, img, name)
}

// mayFetch says whether images of a remote may come here at all: with
// images.require_signature=always its key has to be pinned. The error is Integrity.
func (d *Daemon) mayFetch(ctx context.Context, r kiln.Remote) error {
	v, err := d.setting(ctx, requireSignature)
	if err != nil || v != "always" || r.ImageKey != "" {
		return err
	}
	return kiln.Errorf(kiln.Integrity, "images of %s aren't checked by a key, and images.require_signature is always "+
		"here; pin the key of its images: kiln remote set-key <remote> <key>", r.Server)
}

// mayArrive is mayFetch for an image that a client brings along with an instance of another
// server: the client says with which key it has to be signed. The error is also Invalid.
func (d *Daemon) mayArrive(ctx context.Context, spec ImportSpec) error {
	if spec.ImageKey != "" {
		img := kiln.Image{Fingerprint: spec.Fingerprint, Signature: spec.Signature}
		if err := signing.CheckPinned(spec.ImageKey, img, img.Fingerprint.String()); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "the image %s is refused: %w", img.Fingerprint.Short(), err)
		}
		return nil
	}
	v, err := d.setting(ctx, requireSignature)
	if err != nil || v != "always" {
		return err
	}
	return kiln.Errorf(kiln.Integrity, "the image of an instance that a client brings isn't checked by a key, and "+
		"images.require_signature is always here; pin the key of its images (kiln remote set-key <remote> <key>), or copy "+
		"the image first: kiln image copy")
}

// vouched notes of an image that came from a remote whose images are signed, or was here:
// the signature that was found to be good, and by which key the next version has to be.
func (d *Daemon) vouched(ctx context.Context, r kiln.Remote, found, here kiln.Image) (kiln.Image, error) {
	known := !cameFrom(here, r) || here.Origin.ImageKey == r.ImageKey
	if r.ImageKey == "" || known && here.Signature == found.Signature {
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
