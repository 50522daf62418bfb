package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"path/filepath"
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// PublishSpec says what image to make of an instance or a snapshot. What the image
// says of itself is in Pack, the rest in ImportSpec.
type PublishSpec struct {
	From  string // "c1" or "c1/snap0"
	Check bool   // only tell which fingerprint the image would have
	Pack  instance.PackOptions
	ImportSpec
}

// PublishImage makes an image of an instance, which may run, or of a snapshot. The
// operation's metadata have the "fingerprint" and the "size". The image may be
// there already: the same files make the same image. Errors: NotFound, Invalid,
// Conflict for an alias that is taken; others are the operation's.
func (d *Daemon) PublishImage(ctx context.Context, spec PublishSpec) (*op.Operation, error) {
	if spec.Pack.Compression == "" {
		var err error
		if spec.Pack.Compression, err = d.setting(ctx, "images.compression_algorithm"); err != nil {
			return nil, err
		}
	}
	spec.Pack.Dir = filepath.Join(d.cfg.Dir, "volumes", "tmp")
	src := d.instances.Pack(spec.Pack)
	img, err := src.Find(ctx, spec.From)
	if err != nil {
		return nil, err
	}
	if err := d.checkNewAliases(ctx, spec.ImportSpec); err != nil {
		return nil, err
	}
	return d.Ops.Start("Publishing image", op.Options{MayCancel: true}, func(ctx context.Context, o *op.Operation) error {
		s, err := src.Open(ctx, img)
		if err != nil {
			return err
		}
		if spec.Check {
			fp, err := fingerprint(s)
			o.Set("fingerprint", fp.String())
			return errors.Join(err, s.Close())
		}
		got, err := d.importImage(ctx, spec.ImportSpec, s)
		err = errors.Join(err, s.Close())
		if got.Fingerprint.IsZero() {
			return err
		}
		o.Set("fingerprint", got.Fingerprint.String())
		o.Set("size", strconv.FormatInt(got.Size, 10))
		o.AddResource("images", imageURL(got.Fingerprint))
		if errors.Is(err, kiln.Conflict) {
			return nil // it is what was asked for
		}
		return err
	}), nil
}

// fingerprint reads an image to its end.
func fingerprint(s kiln.Stream) (kiln.Fingerprint, error) {
	h := sha256.New()
	for {
		_, err := s.Next()
		if errors.Is(err, io.EOF) {
			return kiln.Fingerprint(h.Sum(nil)), nil
		}
		if err == nil {
			_, err = io.Copy(h, s)
		}
		if err != nil {
			return kiln.Fingerprint{}, err
		}
	}
}

// checkNewAliases says before any work whether aliases can be an image's.
func (d *Daemon) checkNewAliases(ctx context.Context, spec ImportSpec) error {
	for _, a := range spec.Aliases {
		if err := kiln.CheckAlias(a.Name); err != nil {
			return err
		}
		if spec.MoveAliases {
			continue
		}
		if _, err := d.Images.Alias(ctx, a.Name); err == nil {
			return kiln.Errorf(kiln.Conflict, "Alias already exists: %s; choose another, or take it from its image with --reuse",
				a.Name)
		} else if !errors.Is(err, kiln.NotFound) {
			return err
		}
	}
	return nil
}
