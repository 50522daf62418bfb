package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"slices"
	"sort"

	"github.com/kiln-containers/kiln"
)

// A TOC is the table of contents of a framed file. In the file it is a skippable
// frame (RFC 8878, section 3.1.2), which every zstd passes over, and it stands at
// the end, since others recognise a .zst by its first bytes. Its contents:
//
//	version        1 byte, 1
//	encoder        1 byte of length, then as many
//	average        4 bytes, little-endian as all numbers here
//	threshold      4 bytes
//	frames         4 bytes, how many
//	of each frame  4 bytes of uncompressed length, 4 of compressed, 32 of SHA-256
//	trailer        SHA-256 of the above, 4 bytes of its length, "kiln-toc"
type TOC struct {
	Encoder string // names the program, version and level that made the frames
	Options        // how the tar was cut
	Frames  []Frame
}

// A Frame is a part of a framed file that can be decoded by itself.
type Frame struct {
	Offset    int64 // in the file
	Size      int   // compressed
	RawOffset int64 // in the tar
	RawSize   int
	Hash      kiln.Fingerprint // of the uncompressed bytes
}

const (
	skippable  = 0x184D2A5B // one of the 16 that RFC 8878 leaves to users
	skipHeader = 8
	tocMagic   = "kiln-toc"
	tocVersion = 1
	tocTrailer = sha256.Size + 4 + len(tocMagic)
	tocEntry   = 8 + sha256.Size
	maxEncoder = 64
	maxFrames  = (maxTOC - maxEncoder - 64) / tocEntry
	leastTOC   = 1 + 1 + 12
	maxImage   = 1 << 45 // bytes, so that sums of sizes stay far from overflow
)

// add appends a frame and sets its offsets.
func (t *TOC) add(f Frame) error {
	switch {
	case f.RawSize < 1 || f.RawSize > maxFrame || f.Size < 1 || f.Size > maxPacked:
		return kiln.Errorf(kiln.Invalid, "frame %d has %d bytes, %d compressed", len(t.Frames), f.RawSize, f.Size)
	case len(t.Frames) == maxFrames:
		return kiln.Errorf(kiln.TooLarge, "the file has more than %d frames", maxFrames)
	}
	f.Offset, f.RawOffset = t.end(), t.RawSize()
	t.Frames = append(t.Frames, f)
	return nil
}

// RawSize is the length of the tar.
func (t *TOC) RawSize() int64 {
	if len(t.Frames) == 0 {
		return 0
	}
	last := t.Frames[len(t.Frames)-1]
	return last.RawOffset + int64(last.RawSize)
}

// end is where the table of contents starts.
func (t *TOC) end() int64 {
	if len(t.Frames) == 0 {
		return 0
	}
	last := t.Frames[len(t.Frames)-1]
	return last.Offset + int64(last.Size)
}

// at gives the frame with a byte of the tar.
func (t *TOC) at(raw int64) int {
	return sort.Search(len(t.Frames), func(i int) bool {
		return t.Frames[i].RawOffset+int64(t.Frames[i].RawSize) > raw
	})
}

// Hash stands for the table and, through the hashes in it, for the tar. Frames
// that are fetched one by one can be trusted if it is signed.
func (t *TOC) Hash() kiln.Fingerprint { return sha256.Sum256(t.table()) }

func (t *TOC) table() []byte {
	b := make([]byte, 0, leastTOC+len(t.Encoder)+len(t.Frames)*tocEntry)
	b = append(b, tocVersion, byte(len(t.Encoder)))
	b = append(b, t.Encoder...)
	for _, n := range []int{t.Average, t.Threshold, len(t.Frames)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	for _, f := range t.Frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.RawSize))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.Size))
		b = append(b, f.Hash[:]...)
	}
	return b
}

// encode gives the table as it ends a file.
func (t *TOC) encode() []byte {
	table := t.table()
	sum := sha256.Sum256(table)
	b := binary.LittleEndian.AppendUint32(nil, skippable)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(table)+tocTrailer))
	b = append(append(b, table...), sum[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(table)))
	return append(b, tocMagic...)
}

// ReadTOC reads the table of contents of a file of the given size. A file
// without one is NotFound; one whose table does not fit it is Invalid.
func ReadTOC(r io.ReaderAt, size int64) (TOC, error) {
	if size < int64(skipHeader+leastTOC+tocTrailer) {
		return TOC{}, kiln.Errorf(kiln.NotFound, "the file has no table of contents")
	}
	trailer, err := readAt(r, nil, size-int64(tocTrailer), tocTrailer)
	if err != nil {
		return TOC{}, err
	}
	sum, rest := trailer[:sha256.Size], trailer[sha256.Size:]
	n := int64(binary.LittleEndian.Uint32(rest))
	start := size - int64(tocTrailer) - n - skipHeader
	switch {
	case string(rest[4:]) != tocMagic:
		return TOC{}, kiln.Errorf(kiln.NotFound, "the file has no table of contents")
	case n < int64(leastTOC) || n > maxTOC || start < 0 || size > maxImage:
		return TOC{}, kiln.Errorf(kiln.Invalid, "a table of contents of %d bytes in a file of %d", n, size)
	}
	b, err := readAt(r, nil, start, skipHeader+int(n))
	if err != nil {
		return TOC{}, err
	}
	table := b[skipHeader:]
	if got := sha256.Sum256(table); !bytes.Equal(got[:], sum) {
		return TOC{}, kiln.Errorf(kiln.Integrity, "the table of contents is damaged")
	}
	if binary.LittleEndian.Uint32(b) != skippable || int64(binary.LittleEndian.Uint32(b[4:])) != n+int64(tocTrailer) {
		return TOC{}, kiln.Errorf(kiln.Invalid, "the table of contents is not a skippable frame")
	}
	t, err := parseTable(table)
	if err == nil && t.end() != start {
		err = kiln.Errorf(kiln.Invalid, "the frames take %d bytes of the file and not %d", t.end(), start)
	}
	return t, err
}

func parseTable(b []byte) (TOC, error) {
	id := int(b[1])
	if b[0] != tocVersion {
		return TOC{}, kiln.Errorf(kiln.Invalid, "a table of contents of version %d", b[0])
	}
	if len(b) < leastTOC+id {
		return TOC{}, kiln.Errorf(kiln.Invalid, "the table of contents is cut short")
	}
	t := TOC{Encoder: string(b[2 : 2+id])}
	if err := checkEncoder(t.Encoder); err != nil {
		return TOC{}, err
	}
	b = b[2+id:]
	t.Average, t.Threshold = int(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:]))
	if err := t.check(); err != nil {
		return TOC{}, err
	}
	n := int(binary.LittleEndian.Uint32(b[8:]))
	b = b[12:]
	if n == 0 || n != len(b)/tocEntry || len(b)%tocEntry != 0 {
		return TOC{}, kiln.Errorf(kiln.Invalid, "a table of %d frames in %d bytes", n, len(b))
	}
	t.Frames = make([]Frame, 0, n)
	for e := range slices.Chunk(b, tocEntry) {
		raw, size := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
		f := Frame{RawSize: int(raw), Size: int(size), Hash: kiln.Fingerprint(e[8:])}
		if err := t.add(f); err != nil {
			return TOC{}, err
		}
	}
	return t, nil
}

func checkEncoder(id string) error {
	if id == "" || len(id) > maxEncoder {
		return kiln.Errorf(kiln.Invalid, "a name of %d bytes for an encoder", len(id))
	}
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return kiln.Errorf(kiln.Invalid, "%q is no name of an encoder", id)
		}
	}
	return nil
}
