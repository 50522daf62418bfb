package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/kiln-containers/kiln"
)

// maxWindow bounds the memory that a zstd stream can ask for, in bytes; it is
// what zstd --ultra -22 uses. Any may have commonWindow, whatever its first frame says.
const (
	maxWindow    = 128 << 20
	commonWindow = 8 << 20
)

// What other decoders take, in bytes, at most.
const (
	gzipMemory  = 1 << 20
	bzip2Memory = 8 << 20
	lz4Memory   = 16 << 20
)

// Decompress gives the tar stream that r holds under whatever compression, and
// which one it was. Decoding runs beside the reader, a few MiB ahead. Errors, also
// of Read: Integrity for a stream that is cut or damaged, Invalid for what is no
// archive or is followed by something else, Unsupported, TooLarge. The caller closes the
// result; r is not closed. The memory of the decoder is counted by visit, which may be nil: the
// error is Busy.
func Decompress(ctx context.Context, r io.Reader, visit *Visit) (io.ReadCloser, Format, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := in.Peek(HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	f, err := Detect(head)
	if err != nil {
		return nil, "", err
	}
	out, err := decoder(ctx, f, in, visit)
	if err != nil {
		return nil, f, damaged(err)
	}
	return readAhead(out, in), f, nil
}

// decoder gives the decoder of a format. Those that stop at the end of their
// stream leave what follows in in.
func decoder(ctx context.Context, f Format, in *bufio.Reader, visit *Visit) (io.ReadCloser, error) {
	var memory int64
	window := uint64(commonWindow)
	switch f {
	case Gzip:
		memory = gzipMemory
	case Bzip2:
		memory = bzip2Memory
	case LZ4:
		memory = lz4Memory
	case Xz, Lzma:
		memory = maxDictionary << 20
	case Zstd:
		window = windowOf(in)
		memory = int64(window)
	}
	if err := visit.Decoder(memory); err != nil {
		return nil, err
	}
	switch f {
	case Tar:
		return io.NopCloser(in), nil
	case Gzip:
		return newGzip(in)
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(in)), nil
	case Zstd:
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case LZ4:
		return io.NopCloser(lz4.NewReader(in)), nil
	case Xz:
		return xzReader(ctx, in, "xz")
	case Lzma:
		return xzReader(ctx, in, "lzma")
	case Squashfs:
		return nil, kiln.Errorf(kiln.Invalid, "a squashfs is not a tarball")
	}
	return nil, kiln.Errorf(kiln.Unsupported, "%s is a disk of a virtual machine; kiln runs system containers", f)
}

// windowOf gives the memory that a zstd stream may have, in bytes: what its first frame asks
// for. The others are like it, or are small. pzstd writes a skippable frame before each.
func windowOf(in *bufio.Reader) uint64 {
	for at := 0; at < HeadSize; {
		head, _ := in.Peek(at + zstd.HeaderMaxSize) // as much as there is
		var h zstd.Header
		if err := h.Decode(head[min(at, len(head)):]); err != nil {
			break // the decoder will say what is wrong
		}
		if !h.Skippable {
			window := h.WindowSize
			if h.SingleSegment {
				window = h.FrameContentSize
			}
			return min(max(window, commonWindow), maxWindow)
		}
		at += h.HeaderSize + int(h.SkippableSize)
	}
	return commonWindow
}

// maxDictionary bounds the memory of xz, in MiB: xz -9 makes streams that take 65.
const maxDictionary = 192

func xzReader(ctx context.Context, in io.Reader, format string) (io.ReadCloser, error) {
	memory := fmt.Sprintf("%dMiB", maxDictionary)
	p, err := pipeThrough(ctx, mostMemory, in, nil, "xz", "--format="+format, "--decompress", "--stdout", "--threads=0",
		"--memlimit-decompress="+memory, "--memlimit-mt-decompress="+memory)
	if err != nil {
		return nil, kiln.Errorf(kiln.Unsupported, "decompress %s: %w; install the package xz-utils", format, err)
	}
	return p, nil
}

// gzipReader reads the members of a gzip, and stops at what is none: padding is for
// nothingLeft.
type gzipReader struct {
	*gzip.Reader
	in *bufio.Reader
}

func newGzip(in *bufio.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gzipReader{z, in}, nil
}

func (g *gzipReader) Read(b []byte) (int, error) {
	n, err := g.Reader.Read(b)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if n > 0 {
		return n, nil // and the end the next time
	}
	if head, _ := g.in.Peek(2); string(head) != "\x1f\x8b" {
		return 0, io.EOF
	}
	if err := g.Reset(g.in); err != nil {
		return 0, err
	}
	g.Multistream(false)
	return 0, nil
}

// damaged gives the errors of the decoders one face.
func damaged(err error) error {
	var k kiln.Kind
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.As(err, &k), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "unexpected EOF"),
		strings.Contains(err.Error(), "Unexpected end of input"):
		return kiln.Errorf(kiln.Integrity, "the archive is truncated: %w", err)
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return kiln.Errorf(kiln.TooLarge, "decompressing the archive takes more memory than its beginning asks for, or more "+
			"than %d MiB; compress it in one piece, with a smaller window", maxWindow>>20)
	}
	if strings.Contains(err.Error(), "Memory usage limit reached") {
		return kiln.Errorf(kiln.TooLarge, "decompressing the archive takes more than %d MiB of memory; "+
			"compress it with a smaller dictionary, such as that of xz -9", maxDictionary)
	}
	return kiln.Errorf(kiln.Integrity, "the archive is damaged: %w", err)
}

// ahead reads in a goroutine of its own into a few buffers.
type ahead struct {
	chunks chan chunk
	free   chan []byte
	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	now    chunk
	rest   []byte
}

type chunk struct {
	buf []byte
	n   int
	err error
}

// readAhead decodes beside its reader. After the end of the decoded stream only
// zero bytes may be left in the encoded one.
func readAhead(out io.ReadCloser, in *bufio.Reader) *ahead {
	const buffers, size = 4, 1 << 20
	a := &ahead{chunks: make(chan chunk, buffers), free: make(chan []byte, buffers), stop: make(chan struct{})}
	for range buffers {
		a.free <- make([]byte, size)
	}
	a.wg.Go(func() {
		defer close(a.chunks)
		defer out.Close()
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.stop:
				return
			}
			n, err := fill(out, buf)
			if errors.Is(err, io.EOF) {
				err = orEOF(nothingLeft(in))
			}
			select {
			case a.chunks <- chunk{buf, n, damaged(err)}:
			case <-a.stop:
				return
			}
			if err != nil {
				return
			}
		}
	})
	return a
}

// fill is io.ReadFull that keeps the reader's own error.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// nothingLeft reads the rest of a file, which may be padding.
func nothingLeft(in io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return kiln.Errorf(kiln.Invalid, "there is garbage after the end of the archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Read gives what was decoded.
func (a *ahead) Read(b []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.buf != nil {
			a.free <- a.now.buf
		}
		var ok bool
		if a.now, ok = <-a.chunks; !ok {
			a.now = chunk{err: io.ErrClosedPipe}
		}
		a.rest = a.now.buf[:a.now.n]
	}
	n := copy(b, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close stops decoding and waits until it has.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	a.wg.Wait()
	return nil
}
