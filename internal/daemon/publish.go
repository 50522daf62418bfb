package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// PublishSpec says what image to make of an instance or a snapshot. What the image
// says of itself is in Pack, the rest in ImportSpec.
type PublishSpec struct {
	From  string // "c1" or "c1/snap0"
	Check bool   // only tell which fingerprint the image would have
	// Again: the same files may be published again, and their image gets what the
	// spec says. Else that is a Conflict that changes nothing: clients that count on
	// a new image delete what they take for their own.
	Again bool
	Pack  instance.PackOptions
	ImportSpec
}

// PublishImage makes an image of an instance, which may run, or of a snapshot. The
// operation's metadata have the "fingerprint" and the "size", and "existed" when the
// same files were published before: they make the same image. Errors: NotFound,
// Invalid, Conflict for an alias that is taken; others are the operation's.
func (d *Daemon) PublishImage(ctx context.Context, spec PublishSpec) (*op.Operation, error) {
	if spec.Pack.Compression == "" {
		var err error
		if spec.Pack.Compression, err = d.setting(ctx, "images.compression_algorithm"); err != nil {
			return nil, err
		}
	}
	of, snap, _ := strings.Cut(spec.From, "/")
	ctx, err := d.instances.Meaning(ctx, of, snap)
	if err != nil {
		return nil, err
	}
	src := d.instances.Pack(spec.From, spec.Pack)
	if _, err := src.Find(ctx, spec.From); err != nil {
		return nil, err
	}
	if err := d.checkNewAliases(ctx, spec.ImportSpec); err != nil {
		return nil, err
	}
	options := op.Options{MayCancel: true}
	return d.Ops.Start(ctx, "Publishing image", options, func(ctx context.Context, o *op.Operation) error {
		visit, err := d.share(ctx)
		if err != nil {
			return err
		}
		defer visit.Leave()
		spec.Pack.Visit = visit
		src := d.instances.Pack(spec.From, spec.Pack)
		if spec.Check {
			img, err := kiln.Copy(ctx, hasher{}, src, spec.From)
			o.Set("fingerprint", img.Fingerprint.String())
			return err
		}
		public := d.publicAliases(ctx, spec.Aliases)
		got, err := kiln.Copy(ctx, keeper{d, spec.ImportSpec, !spec.Again}, src, spec.From)
		if got.Fingerprint.IsZero() {
			return err
		}
		if text := d.endOfUpdates(ctx, got.Fingerprint, public); text != "" {
			o.Set("warning", text)
		}
		o.Set("fingerprint", got.Fingerprint.String())
		o.Set("size", strconv.FormatInt(got.Size, 10))
		o.AddResource("images", imageURL(got.Fingerprint))
		if !errors.Is(err, kiln.Conflict) {
			return err
		}
		o.Set("existed", true)
		if spec.Again {
			return nil
		}
		return kiln.Errorf(kiln.Conflict, "The image already exists: %s; %q has not changed since it was published",
			got.Fingerprint, spec.From)
	}), nil
}

// publicAliases gives those of some aliases that mean a public image.
func (d *Daemon) publicAliases(ctx context.Context, of []kiln.Alias) (names []string) {
	for _, a := range of {
		if _, err := d.Images.PublicAlias(ctx, a.Name); err == nil {
			names = append(names, a.Name)
		}
	}
	return names
}

// endOfUpdates warns of an image that has aliases of public ones and isn't public itself: the
// servers that update their copies from here don't find it. "": there is nothing to say.
func (d *Daemon) endOfUpdates(ctx context.Context, fp kiln.Fingerprint, public []string) string {
	img, err := d.Images.Get(ctx, fp)
	if err != nil || img.Public || len(public) == 0 {
		return ""
	}
	return fmt.Sprintf("%s was public and is now a private image: servers that have copies of it get no updates any "+
		"more, and untrusted clients don't see it; to make it public: kiln image edit %s", strings.Join(public, ", "),
		public[0])
}

// hasher is a sink that keeps nothing but the fingerprint.
type hasher struct{}

// Has implements kiln.Sink.
func (hasher) Has(context.Context, kiln.Fingerprint) (bool, error) { return false, nil }

// Put implements kiln.Sink.
func (hasher) Put(_ context.Context, img kiln.Image, s kiln.Stream) (kiln.Image, error) {
	h := sha256.New()
	for {
		_, err := s.Next()
		if errors.Is(err, io.EOF) {
			img.Fingerprint = kiln.Fingerprint(h.Sum(nil))
			return img, nil
		}
		if err == nil {
			_, err = io.Copy(h, s)
		}
		if err != nil {
			return kiln.Image{}, err
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
			return kiln.Errorf(kiln.Conflict, "Alias already exists: %s; choose another, or move it with --reuse", a.Name)
		} else if !errors.Is(err, kiln.NotFound) {
			return err
		}
	}
	return nil
}
