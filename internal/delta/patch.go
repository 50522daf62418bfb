package delta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/kiln-containers/kiln"
)

// A patch makes one framed file of another. Its form:
//
//	magic      "kiln-pat"
//	version    1 byte, 1
//	base       SHA-256 of the table of contents of the base (TOC.Hash)
//	result     SHA-256 of the result
//	size       of the result, 8 bytes, little-endian
//	encoder    1 byte of length, then as many
//	average    4 bytes, threshold 4 bytes: as in the result's table of contents
//	steps      until the one that says that it is over
//
// A step starts with one of the bytes below; its numbers are unsigned varints
// (as in encoding/binary). The result is the frames of the steps, and the table of
// contents that follows from them.
const (
	stepEnd     = 0 // nothing may follow
	stepCopy    = 1 // first frame of the base, how many
	stepUnit    = 2 // see unit
	stepLiteral = 3 // uncompressed length, compressed length, SHA-256 of the first, the compressed bytes
)

const (
	patchMagic   = "kiln-pat"
	patchVersion = 1
	maxUnit      = maxFrame
	maxDict      = 24 << 20
	maxSegments  = 4096
)

// A patchHeader is the head of a patch.
type patchHeader struct {
	base, result kiln.Fingerprint
	size         int64
	toc          TOC // of the result, without frames
}

// A segment is a stretch of the base's tar.
type segment struct{ off, end int64 }

// A unit is a run of frames that are sent as the bytes they decode to, and are
// compressed again by the receiver: number of segments, offset and length of
// each; number of frames, uncompressed length of each; length of the blob, blob.
// The blob is one zstd frame that holds the frames' contents one after the other
// and needs the segments, one after the other, as its raw dictionary (RFC 8878,
// section 5).
type unit struct {
	dict   []segment
	frames []int
	blob   []byte
}

// dictID is what the blob's dictionary is called in its zstd frame.
const dictID = 1

func (h *patchHeader) encode() []byte {
	b := append([]byte(patchMagic), patchVersion)
	b = append(append(b, h.base[:]...), h.result[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.size))
	b = append(append(b, byte(len(h.toc.Encoder))), h.toc.Encoder...)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.toc.Average))
	return binary.LittleEndian.AppendUint32(b, uint32(h.toc.Threshold))
}

func appendCopy(b []byte, first, n int) []byte {
	b = binary.AppendUvarint(append(b, stepCopy), uint64(first))
	return binary.AppendUvarint(b, uint64(n))
}

func appendLiteral(b []byte, f Frame, packed []byte) []byte {
	b = binary.AppendUvarint(append(b, stepLiteral), uint64(f.RawSize))
	b = binary.AppendUvarint(b, uint64(f.Size))
	return append(append(b, f.Hash[:]...), packed...)
}

func (u *unit) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(append(b, stepUnit), uint64(len(u.dict)))
	for _, s := range u.dict {
		b = binary.AppendUvarint(b, uint64(s.off))
		b = binary.AppendUvarint(b, uint64(s.end-s.off))
	}
	b = binary.AppendUvarint(b, uint64(len(u.frames)))
	for _, n := range u.frames {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, uint64(len(u.blob)))
	return append(b, u.blob...)
}

// A patchReader takes a patch apart. It gives nothing that is out of bounds.
type patchReader struct{ in *bufio.Reader }

// header reads the head of a patch.
func (p patchReader) header() (patchHeader, error) {
	var h patchHeader
	magic, err := p.bytes(len(patchMagic) + 1)
	if err != nil {
		return h, err
	}
	if string(magic[:len(patchMagic)]) != patchMagic || magic[len(patchMagic)] != patchVersion {
		return h, kiln.Errorf(kiln.Invalid, "this is no patch, or one of another version")
	}
	fixed, err := p.bytes(2*len(h.base) + 9)
	if err != nil {
		return h, err
	}
	h.base, h.result = kiln.Fingerprint(fixed), kiln.Fingerprint(fixed[len(h.base):])
	size := binary.LittleEndian.Uint64(fixed[2*len(h.base):])
	if size > maxImage {
		return h, kiln.Errorf(kiln.Invalid, "a patch to a file of %d bytes", size)
	}
	h.size = int64(size)
	id, err := p.bytes(int(fixed[len(fixed)-1]))
	if err != nil {
		return h, err
	}
	h.toc.Encoder = string(id)
	o, err := p.bytes(8)
	if err != nil {
		return h, err
	}
	h.toc.Options = Options{int(binary.LittleEndian.Uint32(o)), int(binary.LittleEndian.Uint32(o[4:]))}
	return h, errors.Join(checkEncoder(h.toc.Encoder), h.toc.check())
}

// number reads a number that may not be over a limit.
func (p patchReader) number(most int64) (int64, error) {
	b, err := p.in.Peek(binary.MaxVarintLen64)
	n, size := binary.Uvarint(b)
	if size == 0 {
		return 0, cutShort(err)
	}
	if size < 0 || n > uint64(most) {
		return 0, kiln.Errorf(kiln.Invalid, "the patch has a %d where at most %d is possible", n, most)
	}
	_, err = p.in.Discard(size)
	return int64(n), err
}

// bytes reads n bytes, of which the caller knows that they may be so many.
func (p patchReader) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(p.in, b)
	return b, cutShort(err)
}

// unit reads a unit that may use a tar of the given size.
func (p patchReader) unit(base int64) (u unit, err error) {
	n, err := p.number(maxSegments)
	if err != nil {
		return u, err
	}
	left := int64(maxDict)
	for range n {
		off, err := p.number(base)
		if err != nil {
			return u, err
		}
		size, err := p.number(min(left, base-off))
		if err != nil {
			return u, err
		}
		left -= size
		u.dict = append(u.dict, segment{off, off + size})
	}
	if n, err = p.number(maxUnit); err != nil {
		return u, err
	}
	left = maxUnit
	for range n {
		size, err := p.number(left)
		if err != nil {
			return u, err
		}
		if size == 0 {
			return u, kiln.Errorf(kiln.Invalid, "the patch has an empty frame")
		}
		left -= size
		u.frames = append(u.frames, int(size))
	}
	size, err := p.number(maxPacked)
	if err != nil {
		return u, err
	}
	u.blob, err = p.bytes(int(size))
	return u, err
}

// literal reads a frame and its compressed bytes.
func (p patchReader) literal() (f Frame, packed []byte, err error) {
	raw, err := p.number(maxFrame)
	if err != nil {
		return f, nil, err
	}
	size, err := p.number(maxPacked)
	if err != nil {
		return f, nil, err
	}
	sum, err := p.bytes(len(f.Hash))
	if err != nil {
		return f, nil, err
	}
	packed, err = p.bytes(int(size))
	return Frame{RawSize: int(raw), Size: int(size), Hash: kiln.Fingerprint(sum)}, packed, err
}

// over checks that nothing follows.
func (p patchReader) over() error {
	_, err := p.in.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return kiln.Errorf(kiln.Invalid, "there is something after the end of the patch")
	}
	return err
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return kiln.Errorf(kiln.Invalid, "the patch is cut short")
	}
	return err
}
