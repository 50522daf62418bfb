package daemon

import (
	"context"
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/op"
)

// ExpectImage makes a secret by which another server may bring one image, which
// gets what the spec says. The fingerprint must be in the spec.
func (d *Daemon) ExpectImage(ctx context.Context, spec ImportSpec) (*op.Operation, error) {
	if spec.Fingerprint.IsZero() {
		return nil, kiln.Errorf(kiln.Invalid, "say in the source which fingerprint will be pushed")
	}
	if err := d.checkProfiles(ctx, spec.Profiles); err != nil {
		return nil, err
	}
	aliases := []map[string]string{}
	for _, a := range spec.Aliases {
		aliases = append(aliases, map[string]string{"name": a.Name, "description": a.Description})
	}
	return d.startSecret(ctx, "Image upload token", imageGrant{image: spec.Fingerprint, push: &spec}, map[string]any{
		"aliases": aliases, "public": spec.Public, "properties": spec.Properties, "expires_at": spec.ExpiresAt,
	})
}

// A Target is a server that expects an image.
type Target struct {
	Server      string // URL
	Certificate string // PEM, what it must show; "": whatever an authority vouches for
	Secret      string // of its ExpectImage
	Project     string
}

// PushImage sends an image to a server that expects it.
func (d *Daemon) PushImage(ctx context.Context, img kiln.Image, to Target) (*op.Operation, error) {
	if strings.HasPrefix(to.Server, "http://unix.socket") {
		return nil, kiln.Errorf(kiln.Invalid, "the target is given as its socket, which nobody else can reach; name it by "+
			"a remote with its address on the network, or copy with --mode pull or relay")
	}
	hc, err := d.remotes.HTTP(kiln.Remote{Server: to.Server, Certificate: to.Certificate})
	if err != nil {
		return nil, err
	}
	o := op.Options{MayCancel: true, Resources: map[string][]string{"images": {imageURL(img.Fingerprint)}}}
	return d.Ops.Start(ctx, "Exporting image", o, func(ctx context.Context, o *op.Operation) error {
		return d.push(ctx, o, client.HTTPS(to.Server, hc).WithProject(to.Project), img, to.Secret)
	}), nil
}

func (d *Daemon) push(ctx context.Context, o *op.Operation, c *client.Client, img kiln.Image, secret string) error {
	report := progress(o, img.Size)
	var done int64
	images := c.Images()
	images.Expected = http.Header{"X-LXD-fingerprint": {img.Fingerprint.String()}, "X-LXD-secret": {secret}}
	_, err := kiln.Copy(ctx, expecting{images}, counted{known{d.Images, img}, func(n int) {
		done += int64(n)
		report("", done)
	}}, img.Fingerprint.String())
	if err == nil {
		d.tell(ctx, "image-retrieved", imageURL(img.Fingerprint), nil)
	}
	return err
}

// expecting are the images of a server that expects one: it has a use for it, whatever
// it has.
type expecting struct{ client.Images }

// Has implements kiln.Sink.
func (expecting) Has(context.Context, kiln.Fingerprint) (bool, error) { return false, nil }

// counted is a source whose bytes are counted.
type counted struct {
	kiln.Source
	count func(int)
}

// Open implements kiln.Source.
func (c counted) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	s, err := c.Source.Open(ctx, img)
	if err != nil {
		return nil, err
	}
	return &watched{s, c.count}, nil
}

// watched is a stream whose bytes are counted.
type watched struct {
	kiln.Stream
	count func(int)
}

// Read is kiln.Stream's.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Stream.Read(b)
	w.count(n)
	return n, err
}
