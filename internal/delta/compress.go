package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/kiln-containers/kiln"
)

// A piece is one frame while it is made. Pieces are used again, for the buffers.
type piece struct {
	raw, packed []byte
	frame       Frame
}

// compress makes a frame of what is in raw.
func (p *piece) compress(enc *zstd.Encoder) {
	p.packed = enc.EncodeAll(p.raw, p.packed[:0])
	p.frame = Frame{RawSize: len(p.raw), Size: len(p.packed), Hash: sha256.Sum256(p.raw)}
}

// Compress writes a tar as an ordinary .tar.zst (RFC 8878) of independent frames
// and a table of contents. It uses all cores; the result depends on the bytes of
// the tar and on o alone.
func Compress(ctx context.Context, w io.Writer, tar io.Reader, o Options) (TOC, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return TOC{}, err
	}
	n := runtime.GOMAXPROCS(0)
	pieces := make(chan *piece, 4*n)
	toc := TOC{Encoder: EncoderID, Options: o}
	var encs encoders
	defer encs.giveBack()
	l := line[*piece]{workers: n}
	l.make = func(emit func(*piece) error) error {
		return cutAll(newCutter(tar, o), pieces, emit)
	}
	l.worker = func() (func(context.Context, *piece) error, error) {
		enc, err := encs.get()
		if err != nil {
			return nil, err
		}
		dec, err := newDecoder()
		var back []byte
		return func(_ context.Context, p *piece) (err error) {
			p.compress(enc)
			back, err = p.check(dec, back)
			return err
		}, err
	}
	l.use = func(p *piece) error {
		if err := toc.add(p.frame); err != nil {
			return err
		}
		_, err := w.Write(p.packed)
		pieces <- p
		return err
	}
	if err := l.run(ctx); err != nil {
		return TOC{}, fmt.Errorf("compress a tar: %w", err)
	}
	if len(toc.Frames) == 0 {
		return TOC{}, kiln.Errorf(kiln.Invalid, "compress a tar: it is empty")
	}
	_, err := w.Write(toc.encode())
	return toc, err
}

// check reads a frame back: what can't be read again must not become an image.
func (p *piece) check(dec *zstd.Decoder, back []byte) ([]byte, error) {
	if cap(back) < len(p.raw) {
		back = make([]byte, 0, max(len(p.raw), 1<<20))
	}
	got, err := dec.DecodeAll(p.packed, back[:0:max(len(p.raw), 1)])
	if err != nil || !bytes.Equal(got, p.raw) {
		return back, kiln.Errorf(kiln.Internal, "the encoder %s made %d bytes that don't decompress to what they were (%v)",
			EncoderID, len(p.packed), err)
	}
	return back, nil
}

// cutAll emits the frames of a tar, in spare pieces as far as there are any.
func cutAll(c *cutter, spare <-chan *piece, emit func(*piece) error) error {
	for {
		p := &piece{}
		select {
		case p = <-spare:
		default:
		}
		var err error
		p.raw, err = c.next(p.raw[:0])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = emit(p)
		}
		if err != nil {
			return err
		}
	}
}
