package delta

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/kiln-containers/kiln"
)

// An Index divides a file of any kind into chunks, so that somebody who has a
// similar file can find out what is missing. Its binary form:
//
//	magic          "kiln-idx"
//	version        1 byte, 1
//	whole          SHA-256 of the file
//	of each chunk  4 bytes of length, little-endian, 32 of SHA-256
type Index struct {
	Whole  kiln.Fingerprint // of the file
	Chunks []Chunk          // they tile it
}

// A Chunk is a part of a file as it is stored.
type Chunk struct {
	Offset int64
	Size   int
	Hash   kiln.Fingerprint
}

const (
	indexMagic   = "kiln-idx"
	indexVersion = 1
	indexHeader  = len(indexMagic) + 1 + sha256.Size
	indexEntry   = 4 + sha256.Size
	indexAverage = 64 << 10
	maxIndex     = 256 << 20
	maxChunk     = maxPacked
)

// Size is the length of the file.
func (x *Index) Size() int64 {
	if len(x.Chunks) == 0 {
		return 0
	}
	last := x.Chunks[len(x.Chunks)-1]
	return last.Offset + int64(last.Size)
}

// BuildIndex reads a file. The chunks of a framed one are its frames, so that a
// change to a member costs no more than its frame; any other is cut by contents,
// 64 KiB on average, which serves tars and squashfs well and does not help with a
// tar that was compressed in one piece.
func BuildIndex(ctx context.Context, file io.ReaderAt, size int64) (Index, error) {
	toc, err := ReadTOC(file, size)
	switch kind := kiln.KindOf(err); {
	case err == nil:
	case kind == kiln.NotFound, kind == kiln.Invalid, kind == kiln.Integrity, kind == kiln.TooLarge:
		toc = TOC{} // it only steers the cutting: no reason to refuse a file
	default:
		return Index{}, err
	}
	type job struct {
		data  []byte
		chunk Chunk
	}
	var x Index
	whole := sha256.New()
	l := line[*job]{workers: runtime.GOMAXPROCS(0)}
	l.make = func(emit func(*job) error) error {
		return chunks(file, size, toc, func(off int64, b []byte) error {
			return emit(&job{b, Chunk{Offset: off, Size: len(b)}})
		})
	}
	l.worker = func() (func(context.Context, *job) error, error) {
		return func(_ context.Context, j *job) error {
			j.chunk.Hash = sha256.Sum256(j.data)
			return nil
		}, nil
	}
	l.use = func(j *job) error {
		x.Chunks = append(x.Chunks, j.chunk)
		_, err := whole.Write(j.data)
		return err
	}
	if err := l.run(ctx); err != nil {
		return Index{}, fmt.Errorf("index a file: %w", err)
	}
	x.Whole = kiln.Fingerprint(whole.Sum(nil))
	return x, nil
}

// chunks reads a file frame by frame and the rest of it cut by contents.
func chunks(file io.ReaderAt, size int64, toc TOC, fn func(int64, []byte) error) error {
	for _, f := range toc.Frames {
		b, err := readAt(file, nil, f.Offset, f.Size)
		if err == nil {
			err = fn(f.Offset, b)
		}
		if err != nil {
			return err
		}
	}
	off, g := toc.end(), newGear(indexAverage)
	in := bufio.NewReaderSize(io.NewSectionReader(file, off, size-off), 8*g.max)
	for off < size {
		b, err := in.Peek(int(min(size-off, int64(g.max))))
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
		n := g.cut(b)
		if err := fn(off, slices.Clone(b[:n])); err != nil {
			return err
		}
		off += int64(n)
		if _, err := in.Discard(n); err != nil {
			return err
		}
	}
	return nil
}

// MarshalBinary gives the binary form.
func (x Index) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, indexHeader+len(x.Chunks)*indexEntry)
	b = append(b, indexMagic...)
	b = append(b, indexVersion)
	b = append(b, x.Whole[:]...)
	off := int64(0)
	for i, c := range x.Chunks {
		if c.Offset != off || c.Size < 1 || c.Size > maxChunk {
			return nil, fmt.Errorf("chunk %d of %d bytes at %d doesn't follow on %d", i, c.Size, c.Offset, off)
		}
		off += int64(c.Size)
		b = binary.LittleEndian.AppendUint32(b, uint32(c.Size))
		b = append(b, c.Hash[:]...)
	}
	return b, nil
}

// ParseIndex is the inverse of MarshalBinary, for bytes from anywhere. The errors
// are Invalid and TooLarge.
func ParseIndex(b []byte) (Index, error) {
	if len(b) > maxIndex {
		return Index{}, kiln.Errorf(kiln.TooLarge, "an index of %d bytes", len(b))
	}
	if len(b) < indexHeader || string(b[:len(indexMagic)]) != indexMagic || b[len(indexMagic)] != indexVersion ||
		(len(b)-indexHeader)%indexEntry != 0 {
		return Index{}, kiln.Errorf(kiln.Invalid, "this is no chunk index, or one of another version")
	}
	x := Index{Whole: kiln.Fingerprint(b[indexHeader-sha256.Size:])}
	b = b[indexHeader:]
	x.Chunks = make([]Chunk, 0, len(b)/indexEntry)
	off := int64(0)
	for e := range slices.Chunk(b, indexEntry) {
		n := binary.LittleEndian.Uint32(e)
		if n < 1 || n > maxChunk {
			return Index{}, kiln.Errorf(kiln.Invalid, "chunk %d of an index has %d bytes", len(x.Chunks), n)
		}
		x.Chunks = append(x.Chunks, Chunk{off, int(n), kiln.Fingerprint(e[4:])})
		off += int64(n)
	}
	return x, nil
}
