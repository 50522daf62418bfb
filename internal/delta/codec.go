package delta

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/klauspost/compress/zstd"
)

// EncoderID names what Compress compresses with: what newEncoder makes. Its output
// is part of the format: a patch names frames by their contents, and the receiver
// compresses them again.
// TestEncoderIsFrozen fails when it changes, as it may with every version of the
// library; the name has to change with it. Files by another encoder stay
// readable, and patches to them hold whole frames.
const EncoderID = "klauspost/compress v1.20.3 zstd level 3"

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxFrame/2),
		zstd.WithLowerEncoderMem(true))
}

// spare holds encoders that were used. Making one takes several megabytes, what it
// has compressed before has no influence, and the garbage collector empties it.
var spare sync.Pool // of *zstd.Encoder

// encoders are those of one line, which all come back when it is over.
type encoders struct {
	mu   sync.Mutex
	lent []*zstd.Encoder
}

func (e *encoders) get() (*zstd.Encoder, error) {
	enc, ok := spare.Get().(*zstd.Encoder)
	if !ok {
		var err error
		if enc, err = newEncoder(); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lent = append(e.lent, enc)
	return enc, nil
}

// giveBack is for when nothing uses them any more.
func (e *encoders) giveBack() {
	for _, enc := range e.lent {
		spare.Put(enc)
	}
}

// newDecoder makes one whose results are bounded by what they are decoded into.
func newDecoder(o ...zstd.DOption) (*zstd.Decoder, error) {
	return zstd.NewReader(nil, append(o, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow),
		zstd.WithDecodeAllCapLimit(true))...)
}

// A frameReader reads the frames of a file that has a table of contents. It is
// for one goroutine.
type frameReader struct {
	file   io.ReaderAt
	toc    TOC
	dec    *zstd.Decoder
	packed []byte
}

func newFrameReader(file io.ReaderAt, toc TOC) (*frameReader, error) {
	dec, err := newDecoder()
	return &frameReader{file: file, toc: toc, dec: dec}, err
}

// raw appends the contents of a frame to buf, checked against its hash.
func (r *frameReader) raw(buf []byte, i int) ([]byte, error) {
	f := r.toc.Frames[i]
	packed, err := readAt(r.file, r.packed[:0], f.Offset, f.Size)
	if err != nil {
		return buf, err
	}
	r.packed = packed
	n := len(buf)
	buf = append(buf, make([]byte, f.RawSize)...)
	got, err := r.dec.DecodeAll(packed, buf[n:n:n+f.RawSize])
	if err != nil || len(got) != f.RawSize || sha256.Sum256(got) != f.Hash {
		return buf[:n], kiln.Errorf(kiln.Integrity, "frame %d is not what the table of contents says", i)
	}
	return buf, nil
}

// readAt appends n bytes of r to buf. What is not there is Integrity: every
// length was checked before, so the file has changed.
func readAt(r io.ReaderAt, buf []byte, off int64, n int) ([]byte, error) {
	start := len(buf)
	buf = append(buf, make([]byte, n)...)
	got, err := r.ReadAt(buf[start:], off)
	switch {
	case got == n:
		return buf, nil
	case errors.Is(err, io.EOF):
		return buf, kiln.Errorf(kiln.Integrity, "the file ends at %d, before %d", off+int64(got), off+int64(n))
	}
	return buf, err
}

// fileHash gives the SHA-256 of a whole file.
func fileHash(ctx context.Context, file *io.SectionReader) (kiln.Fingerprint, error) {
	h := sha256.New()
	n, err := io.Copy(h, ctxReader{ctx, io.NewSectionReader(file, 0, file.Size())})
	if err == nil && n != file.Size() {
		err = io.ErrUnexpectedEOF
	}
	return kiln.Fingerprint(h.Sum(nil)), err
}

// ctxReader stops reading when its context ends. It is made and used within one
// call.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
