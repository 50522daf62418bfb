package delta

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
)

const block = 512 // what a tar consists of

// maxExtension bounds the contents that belong to the header of another member,
// such as a long name.
const maxExtension = 1 << 20

// A header is what cutting needs of a tar header (POSIX ustar: IEEE 1003.1,
// pax, "ustar Interchange Format"; GNU tar writes the same fields).
type header struct {
	key     uint64 // stands for the name
	size    int64  // of the content and what pads it
	extends bool   // belongs to the next header
}

// parseHeader reads a block. One that is no header, as in the sparse maps of GNU
// tar, counts as a member without content and with its bytes for a name, so that
// a reader that got lost finds its way again.
func parseHeader(b []byte) (h header, ok bool) {
	size, sound := number(b[124:136])
	if sum, has := number(b[148:156]); !has || sum != checksum(b) || !sound || size > 1<<50 {
		return header{key: hash64(b)}, false
	}
	h.key = hash64(b[:100], b[345:500])
	switch b[156] {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return h, true // whatever the size says
	case tar.TypeXHeader, tar.TypeXGlobalHeader, 'L', 'K': // the last two hold long names of GNU tar
		h.extends = size <= maxExtension
	}
	h.size = (size + block - 1) &^ (block - 1)
	return h, true
}

// number reads octal digits, or what GNU tar writes for numbers too long for
// them: the first bit set, then binary.
func number(b []byte) (int64, bool) {
	if b[0] == 0x80 && len(b) > 8 {
		n := binary.BigEndian.Uint64(b[len(b)-8:])
		return int64(n), n < 1<<63
	}
	s := string(bytes.Trim(b, " \x00"))
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 8, 63)
	return int64(n), err == nil
}

// checksum adds up a header as if its own field for that were spaces.
func checksum(b []byte) int64 {
	sum := int64(8 * ' ')
	for i, c := range b[:block] {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	return sum
}

func hash64(parts ...[]byte) uint64 {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}
