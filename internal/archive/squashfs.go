package archive

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"os"
	"strings"

	"github.com/kiln-containers/kiln"
)

// A Superblock is what the beginning of a squashfs says of the rest, as in the
// kernel's Documentation/filesystems/squashfs.rst, version 4.0.
type Superblock struct {
	Inodes     uint32
	BlockSize  uint32 // bytes
	Compressor string // "gzip", "xz", "zstd", …
	Size       int64  // bytes of the file system; the file may be padded
}

// superblockSize is in bytes.
const superblockSize = 96

var compressors = []string{1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}

// ParseSuperblock reads the first bytes of a squashfs whose file has size bytes.
// Errors: Invalid for one that kiln can't read, Integrity for one that is truncated or
// damaged.
func ParseSuperblock(head []byte, size int64) (Superblock, error) {
	if len(head) < superblockSize || string(head[:4]) != "hsqs" {
		return Superblock{}, kiln.Errorf(kiln.Integrity, "this is no squashfs, or a truncated one")
	}
	le := binary.LittleEndian
	s := Superblock{Inodes: le.Uint32(head[4:]), BlockSize: le.Uint32(head[12:]), Size: int64(le.Uint64(head[40:]))}
	major, compressor, log := le.Uint16(head[28:]), int(le.Uint16(head[20:])), le.Uint16(head[22:])
	switch {
	case major != 4:
		return s, kiln.Errorf(kiln.Invalid, "squashfs version %d is not supported; it must be 4", major)
	case log < 12 || log > 20 || s.BlockSize != 1<<log:
		return s, kiln.Errorf(kiln.Integrity, "the squashfs is damaged: blocks of %d bytes", s.BlockSize)
	case compressor < 1 || compressor >= len(compressors):
		return s, kiln.Errorf(kiln.Integrity, "the squashfs is damaged: unknown compressor %d", compressor)
	case s.Size < superblockSize || s.Inodes == 0:
		return s, kiln.Errorf(kiln.Integrity, "the squashfs is damaged: it says that it has %d bytes and %d inodes", s.Size,
			s.Inodes)
	case s.Size > size:
		return s, kiln.Errorf(kiln.Integrity, "the squashfs is truncated: %d of %d bytes are there", size, s.Size)
	}
	// The tables are where the superblock says, one after the other.
	for at := 64; at < superblockSize; at += 8 {
		table := le.Uint64(head[at:])
		if table != ^uint64(0) && table >= uint64(s.Size) {
			return s, kiln.Errorf(kiln.Integrity, "the squashfs is damaged: a table is beyond its end")
		}
	}
	s.Compressor = compressors[compressor]
	return s, nil
}

// What sqfs2tar takes of memory, in bytes: 182 MiB of a million inodes with short names. It may
// have some times as much, since a squashfs can have fewer inodes than names.
const (
	squashfsMemory = 32 << 20
	squashfsInode  = 192
	roomier        = 4
)

// squashfsPad is what mksquashfs pads a file system to, in bytes, at most.
const squashfsPad = 64 << 10

// onlySockets refuses that sqfs2tar leaves anything out but sockets, which tar has
// none of.
func onlySockets(stderr string) error {
	if len(stderr) == maxStderr {
		return kiln.Errorf(kiln.Invalid, "the squashfs has too many files that tar has no type for, as %.100q", stderr)
	}
	sockets := strings.Count(stderr, ": cannot pack socket\nSkipping ")
	if strings.Count(stderr, "WARNING: ") > sockets || strings.Contains(stderr, "Found a file named ") {
		return kiln.Errorf(kiln.Invalid, "the squashfs has a file that can't be read: %.1000s", strings.TrimSpace(stderr))
	}
	return nil
}

// SquashfsTar gives the content of a squashfs file as a tar stream, without its
// sockets. Every block is read and decoded on the way. The file is read by a program, so
// that an untrusted squashfs never meets the kernel. The memory of that is counted by visit,
// which may be nil: the error is Busy.
func SquashfsTar(ctx context.Context, f *os.File, visit *Visit) (io.ReadCloser, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, superblockSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && n < len(head) {
		return nil, kiln.Errorf(kiln.Integrity, "the squashfs is truncated")
	}
	s, err := ParseSuperblock(head, fi.Size())
	if err != nil {
		return nil, err
	}
	if fi.Size() > s.Size+squashfsPad {
		return nil, kiln.Errorf(kiln.Invalid, "there is garbage after the end of the squashfs")
	}
	if err := nothingLeft(io.NewSectionReader(f, s.Size, fi.Size()-s.Size)); err != nil {
		return nil, err
	}
	memory := squashfsMemory + squashfsInode*int64(s.Inodes)
	if err := visit.Decoder(min(memory, mostMemory)); err != nil {
		return nil, err
	}
	p, err := pipeThrough(ctx, min(roomier*memory, mostMemory), nil, f, "sqfs2tar", inFile)
	if err != nil {
		return nil, kiln.Errorf(kiln.Unsupported, "read a squashfs: %w; install the package squashfs-tools-ng", err)
	}
	p.check = onlySockets
	return readAhead(p, bufio.NewReader(strings.NewReader(""))), nil
}
