package archive

import (
	"bytes"
	"encoding/hex"

	"github.com/kiln-containers/kiln"
)

// A Format is how a file of an image is packed.
type Format string

// The formats that can be told apart by their first bytes.
const (
	Tar      Format = "tar"
	Gzip     Format = "tar.gz"
	Bzip2    Format = "tar.bz2"
	Xz       Format = "tar.xz"
	Lzma     Format = "tar.lzma"
	Zstd     Format = "tar.zst"
	LZ4      Format = "tar.lz4"
	Squashfs Format = "squashfs"
	Qcow2    Format = "qcow2"
	VMDK     Format = "vmdk"
)

// Ext gives the format's usual file name extension, with its dot.
func (f Format) Ext() string { return "." + string(f) }

// HeadSize is how many bytes Detect looks at, where the file has so many.
const HeadSize = 512

// magics are the first bytes of the formats, most specific first. A tar has its
// magic further in: ustar of POSIX.1-2001 at offset 257.
var magics = []struct {
	at    int
	bytes string
	f     Format
}{
	{0, "\x1f\x8b", Gzip},
	{0, "\xfd7zXZ", Xz},
	{0, "\x28\xb5\x2f\xfd", Zstd},
	{0, "\x04\x22\x4d\x18", LZ4},
	{0, "hsqs", Squashfs},
	{0, "QFI\xfb", Qcow2},
	{0, "KDMV", VMDK},
	{257, "ustar", Tar},
	{0, "\x5d\x00\x00", Lzma},
	{0, "BZh", Bzip2},
}

// notImages are formats that people try, with what to say.
var notImages = []struct{ magic, what string }{
	{"PK\x03\x04", "a zip file"},
	{"7z\xbc\xaf", "a 7-zip file"},
	{"!<arch>", "an ar archive (a .deb?)"},
	{"\x7fELF", "a program"},
	{"<", "HTML or XML"},
	{"{", "JSON"},
	{"architecture:", "a bare metadata.yaml; pack it into a tarball"},
}

// Detect says how a file is packed, by its first bytes and never by its name.
// Errors: Invalid, which says what was found instead, and Integrity for so little
// that it may be the beginning of anything.
func Detect(head []byte) (Format, error) {
	for _, m := range magics {
		if len(head) >= m.at && bytes.HasPrefix(head[m.at:], []byte(m.bytes)) {
			return m.f, nil
		}
	}
	if len(head) == 0 {
		return "", kiln.Errorf(kiln.Integrity, "the file is empty")
	}
	for _, n := range notImages {
		if bytes.HasPrefix(head, []byte(n.magic)) {
			return "", kiln.Errorf(kiln.Invalid, "Unsupported compression: this is %s; an image is a tarball (plain, gz, "+
				"bz2, xz, lzma, zst, lz4) or a squashfs", n.what)
		}
	}
	if len(head) < HeadSize {
		return "", kiln.Errorf(kiln.Integrity, "Unsupported compression: the file begins with %s and has %d bytes only: "+
			"it is truncated, or no archive", hex.EncodeToString(head[:min(8, len(head))]), len(head))
	}
	return "", kiln.Errorf(kiln.Invalid, "Unsupported compression: the file begins with %s, which is neither a tarball "+
		"(plain, gz, bz2, xz, lzma, zst, lz4) nor a squashfs", hex.EncodeToString(head[:min(8, len(head))]))
}
