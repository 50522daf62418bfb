package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// A carried image is a kiln.Source of one image that goes through this client, which
// shows how far it is.
type carried struct {
	kiln.Source
	app  *app
	what string     // is done, for people
	from kiln.Image // as Source has it
	img  kiln.Image // as the target is told of it
	size int64      // bytes, -1 if unknown
}

// Find implements kiln.Source.
func (c carried) Find(context.Context, string) (kiln.Image, error) { return c.img, nil }

// Open implements kiln.Source.
func (c carried) Open(ctx context.Context, _ kiln.Image) (kiln.Stream, error) {
	s, err := c.Source.Open(ctx, c.from)
	if err != nil {
		return nil, err
	}
	w := &wrapped{Stream: s}
	w.wrap, w.done = c.app.progress(c.what, c.size)
	return w, nil
}

// signature gives what a remote says is the signature of its image, as the target is told. One
// that can't be is left out, which is told: whoever wants it signed has pinned a key.
func (a *app) signature(img kiln.Image, remote string) string {
	if img.Signature == "" {
		return ""
	}
	if _, err := signing.ParseOf(img.Signature, img.Fingerprint); err != nil {
		a.warn(fmt.Sprintf("the signature of image %s on %q is left out: %v", img.Fingerprint.Short(), remote, err))
		return ""
	}
	return img.Signature
}

// wrapped is a stream whose reads are watched.
type wrapped struct {
	kiln.Stream
	wrap func(io.Reader) io.Reader
	now  io.Reader
	done func()
}

// Next implements kiln.Stream.
func (w *wrapped) Next() (kiln.File, error) {
	f, err := w.Stream.Next()
	w.now = w.wrap(w.Stream)
	return f, err
}

// Read implements kiln.Stream.
func (w *wrapped) Read(b []byte) (int, error) { return w.now.Read(b) }

// Close implements kiln.Stream.
func (w *wrapped) Close() error {
	w.done()
	return w.Stream.Close()
}
