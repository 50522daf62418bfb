// Package erofs writes read-only EROFS file systems: a whole tree in one file,
// in one pass over its entries. File data goes out as it comes in, aligned to
// blocks, and the metadata follows at the end. Nothing is compressed, so a mount
// costs nothing and files are read straight from the page cache.
//
// The format is the kernel's Documentation/filesystems/erofs.rst and its
// fs/erofs/erofs_fs.h, without features newer than Linux 5.4. The package
// doesn't know what the tree is for, nor how to mount it.
package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024
	superMagic  = 0xE0F5E1E2
	slotSize    = 32 // inodes are at multiples of it; the number is their "nid"
	inodeSize   = 64
	direntSize  = 12

	compatChecksum = 1 // the superblock has a CRC-32C
	compatMtime    = 2 // times of inodes are of modification

	flatPlain  = 0 // all data in blocks of its own
	flatInline = 2 // the last part of the data follows the inode
)

// batch is how much file data is written at once, in bytes.
const batch = 1 << 20

// hole is the smallest run of zeros that isn't written, in bytes.
const hole = 64 << 10

// A Writer builds one file system. It is an archive.TreeWriter.
type Writer struct {
	f     *os.File
	uuid  [16]byte
	root  *node
	buf   []byte // file data not written yet …
	at    int64  // … and where it goes, in bytes
	nodes int
}

// node is one inode. It is small: there may be a million.
type node struct {
	mode     uint16 // type and permissions, as in stat(2)
	layout   uint8
	listed   bool // by order
	uid, gid uint32
	nsec     uint32
	nlink    uint32
	block    uint32 // first of its data
	mtime    int64  // seconds
	size     int64
	nid      uint64
	rare     *rare
	children *children // of a directory; nil: it is empty
	parent   *node     // of a directory
}

// rare is what few inodes have.
type rare struct {
	link   string // of a symlink
	xattrs []byte // as stored in the inode
}

func (n *node) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

// hasBody reports whether its data are made here, in the size that it has.
func (n *node) hasBody() bool { return n.isDir() || n.link() != "" }

func (n *node) link() string {
	if n.rare == nil {
		return ""
	}
	return n.rare.link
}

func (n *node) xattrs() []byte {
	if n.rare == nil {
		return nil
	}
	return n.rare.xattrs
}

// body gives the data of what hasBody, once every nid is known.
func (n *node) body() []byte {
	if n.isDir() {
		return n.dirBody()
	}
	return []byte(n.link())
}

// NewWriter writes to an empty file. The UUID tells overlayfs file systems apart;
// the same tree should have the same.
func NewWriter(f *os.File, uuid [16]byte) *Writer {
	w := &Writer{f: f, uuid: uuid, at: blockSize, buf: make([]byte, 0, batch)}
	w.root = w.newDir(nil)
	return w
}

func (w *Writer) newDir(parent *node) *node {
	w.nodes++
	return &node{mode: unix.S_IFDIR | 0o755, nlink: 2, parent: parent}
}

// Add is TreeWriter's. Device nodes are left out.
func (w *Writer) Add(e *archive.Entry, r io.Reader) error {
	if err := w.add(e, r); err != nil {
		return fmt.Errorf("unpack %q: %w", e.Path, err)
	}
	return nil
}

func (w *Writer) add(e *archive.Entry, r io.Reader) error {
	if e.Path == "." {
		return w.root.describe(e)
	}
	dir, err := w.dir(path.Dir(e.Path))
	if err != nil {
		return err
	}
	base := path.Base(e.Path)
	if e.Type == archive.Dir {
		old := dir.children.get(base)
		if old == nil || !old.isDir() {
			if err := dir.remove(base); err != nil {
				return err
			}
			old = w.newDir(dir)
			dir.put(base, old)
			dir.nlink++
		}
		return old.describe(e)
	}
	n, err := w.leaf(e, r)
	if err != nil {
		return err
	}
	if err := dir.remove(base); err != nil || n == nil {
		return err
	}
	dir.put(base, n)
	return nil
}

// remove takes a name out of a directory, if it is there.
func (n *node) remove(base string) error {
	switch old := n.children.get(base); {
	case old == nil:
	case old.children.len() > 0:
		return kiln.Errorf(kiln.Invalid, "it takes the place of a directory that is not empty")
	case old.isDir():
		n.nlink--
	default:
		old.nlink--
	}
	n.children.remove(base)
	return nil
}

// leaf makes what is no directory; nil for what is left out.
func (w *Writer) leaf(e *archive.Entry, r io.Reader) (*node, error) {
	n := &node{nlink: 1}
	switch e.Type {
	case archive.Regular:
		n.mode = unix.S_IFREG
		n.size = e.Size
		block, err := w.data(r, e.Size)
		if err != nil {
			return nil, err
		}
		n.block = block
	case archive.Symlink:
		n.mode, n.size = unix.S_IFLNK, int64(len(e.Link))
	case archive.Fifo:
		n.mode = unix.S_IFIFO
	case archive.Socket:
		n.mode = unix.S_IFSOCK
	case archive.Hardlink:
		target, err := w.find(e.Link)
		if err != nil {
			return nil, err
		}
		target.nlink++
		return target, nil
	default:
		return nil, nil
	}
	w.nodes++
	return n, n.describe(e)
}

// describe sets what every type has.
func (n *node) describe(e *archive.Entry) error {
	n.mode = n.mode&unix.S_IFMT | uint16(e.Mode&0o7777)
	if n.mode&unix.S_IFMT == unix.S_IFLNK {
		n.mode |= 0o777
	}
	n.uid, n.gid = e.UID, e.GID
	n.mtime, n.nsec = e.ModTime.Unix(), uint32(e.ModTime.Nanosecond())
	n.rare = nil
	xattrs, err := encodeXattrs(e.Xattrs)
	if xattrs != nil || e.Type == archive.Symlink {
		n.rare = &rare{xattrs: xattrs}
		if e.Type == archive.Symlink {
			n.rare.link = e.Link
		}
	}
	return err
}

// dir finds a directory, making what is missing.
func (w *Writer) dir(p string) (*node, error) {
	n := w.root
	if p == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(p, "/") {
		next := n.children.get(part)
		if next == nil {
			next = w.newDir(n)
			n.put(part, next)
			n.nlink++
		}
		if !next.isDir() {
			return nil, kiln.Errorf(kiln.Invalid, "it goes through %q, which is not a directory", part)
		}
		n = next
	}
	return n, nil
}

func (w *Writer) find(p string) (*node, error) {
	n := w.root
	for part := range strings.SplitSeq(p, "/") {
		if n = n.children.get(part); n == nil {
			// A device, which was left out, or nothing.
			return nil, kiln.Errorf(kiln.Invalid, "hard link to %q, which is not in the tree", p)
		}
	}
	if n.isDir() {
		return nil, kiln.Errorf(kiln.Invalid, "hard link to the directory %q", p)
	}
	return n, nil
}

// data appends the content of a file and gives its first block. Long runs of
// zeros become holes of the file that is written.
func (w *Writer) data(r io.Reader, size int64) (uint32, error) {
	if size == 0 {
		return 0, nil
	}
	start := w.at + int64(len(w.buf))
	if (start+size)>>blockBits >= 1<<32-1 {
		return 0, kiln.Errorf(kiln.TooLarge, "the tree is larger than 16 TiB")
	}
	for left := size; left > 0; {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
		from := len(w.buf)
		n := int(min(left, int64(cap(w.buf)-from)))
		w.buf = w.buf[:from+n]
		if _, err := io.ReadFull(r, w.buf[from:]); err != nil {
			return 0, err
		}
		left -= int64(n)
	}
	return uint32(start >> blockBits), w.align()
}

// align pads the data to a whole block.
func (w *Writer) align() error {
	pad := -len(w.buf) & (blockSize - 1)
	w.buf = append(w.buf, make([]byte, pad)...) // cap is a multiple of the block size
	if len(w.buf) == cap(w.buf) {
		return w.flush()
	}
	return nil
}

// flush writes the batch. w.at is a multiple of the block size always, and so is
// the batch unless it is the file's last.
func (w *Writer) flush() error {
	for from := 0; from < len(w.buf); {
		// What is zero at first stays a hole …
		to := from
		for to < len(w.buf) && zero(w.buf[to:min(to+hole, len(w.buf))]) {
			to += hole
		}
		// … and the rest goes out up to the next one.
		from = to
		for to < len(w.buf) && !zero(w.buf[to:min(to+hole, len(w.buf))]) {
			to += hole
		}
		if to = min(to, len(w.buf)); from < to {
			if _, err := w.f.WriteAt(w.buf[from:to], w.at+int64(from)); err != nil {
				return err
			}
		}
		from = to
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// zero reports whether b is all zeros: each byte is the one before it.
func zero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// prefixes are the numbers that stand for the beginnings of names of extended
// attributes.
var prefixes = []struct {
	index  byte
	prefix string
}{
	{2, "system.posix_acl_access"}, {3, "system.posix_acl_default"}, {1, "user."}, {6, "security."},
}

// encodeXattrs gives the extended attributes as they follow an inode: a header,
// then name and value of each, padded to four bytes.
func encodeXattrs(xattrs map[string]string) ([]byte, error) {
	if len(xattrs) == 0 {
		return nil, nil
	}
	b := make([]byte, 12)
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		value := xattrs[name]
		i := slices.IndexFunc(prefixes, func(p struct {
			index  byte
			prefix string
		}) bool {
			return strings.HasPrefix(name, p.prefix)
		})
		if i < 0 {
			continue
		}
		rest := strings.TrimPrefix(name, prefixes[i].prefix)
		if len(rest) > 255 || len(value) > 65535 {
			return nil, kiln.Errorf(kiln.Invalid, "the extended attribute %.64q is too long", name)
		}
		b = append(b, byte(len(rest)), prefixes[i].index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, rest...), value...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	if len(b) == 12 {
		return nil, nil
	}
	if len(b) > archive.MaxXattrs {
		return nil, kiln.Errorf(kiln.Invalid, "the extended attributes take more than %d bytes", archive.MaxXattrs)
	}
	return b, nil
}

// They fit beside an inode in one block.
const _ = uint(blockSize - inodeSize - archive.MaxXattrs)

// Close is TreeWriter's: it writes the metadata and, last, the superblock.
func (w *Writer) Close() error {
	if err := w.flush(); err != nil {
		return w.noSpace(err)
	}
	inodes := w.order()
	meta := uint64(w.at >> blockBits)
	end := w.layOut(inodes)
	next := meta + blocks(int64(end))
	for _, n := range inodes {
		if n.layout == flatPlain && n.hasBody() {
			n.block = uint32(next)
			next += blocks(n.size)
		}
	}
	if next >= 1<<32-1 {
		return kiln.Errorf(kiln.TooLarge, "the tree is larger than 16 TiB")
	}
	out := &output{f: w.f, at: w.at, buf: make([]byte, 0, batch)}
	for i, n := range inodes {
		out.seek(w.at + int64(n.nid)*slotSize)
		out.write(n.inode(uint32(i + 1)))
		out.write(n.xattrs())
		if n.layout == flatInline {
			out.write(n.body())
		}
	}
	for _, n := range inodes {
		if n.layout == flatPlain && n.hasBody() {
			out.seek(int64(n.block) * blockSize)
			out.write(n.body())
		}
	}
	out.seek(int64(next) * blockSize)
	if err := out.flush(); err != nil {
		return w.noSpace(err)
	}
	if err := w.f.Truncate(int64(next) * blockSize); err != nil {
		return w.noSpace(err)
	}
	_, err := w.f.WriteAt(w.super(meta, next, len(inodes)), superOffset)
	return w.noSpace(err)
}

func (w *Writer) noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return kiln.Errorf(kiln.NoSpace, "no space left to unpack the image: %w", err)
	}
	return err
}

func blocks(size int64) uint64 { return uint64(size+blockSize-1) >> blockBits }

// order lists the inodes, a directory before what is in it, by name: the same
// tree gives the same list.
func (w *Writer) order() []*node {
	list := make([]*node, 0, w.nodes)
	var visit func(n *node)
	visit = func(n *node) {
		if n.listed {
			return // a hard link
		}
		n.listed = true
		list = append(list, n)
		for _, c := range n.children.sorted() {
			visit(c.node)
		}
	}
	visit(w.root)
	for _, n := range list {
		n.listed = false // Close may be called again
	}
	return list
}

// layOut gives each inode its place in the metadata and says where that ends, in
// bytes. An inode, its extended attributes and its inline data never cross a
// block. The first slots stay empty: inode number 0 would mean no inode.
func (w *Writer) layOut(inodes []*node) uint64 {
	at := uint64(inodeSize)
	for _, n := range inodes {
		n.layout = flatPlain
		if n.isDir() {
			n.size = n.dirSize()
		}
		need := uint64(inodeSize + len(n.xattrs()))
		if n.hasBody() && need+uint64(n.size) <= blockSize {
			n.layout = flatInline
			need += uint64(n.size)
		}
		if at%blockSize+need > blockSize {
			at = (at + blockSize - 1) &^ (blockSize - 1)
		}
		n.nid = at / slotSize
		at = (at + need + slotSize - 1) &^ (slotSize - 1)
	}
	return at
}

// inode encodes the extended form of an inode.
func (n *node) inode(ino uint32) []byte {
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	le.PutUint16(b[0:], 1|uint16(n.layout)<<1)
	if x := n.xattrs(); len(x) > 0 {
		le.PutUint16(b[2:], uint16((len(x)-12)/4+1))
	}
	le.PutUint16(b[4:], n.mode)
	le.PutUint64(b[8:], uint64(n.size))
	le.PutUint32(b[16:], n.block)
	le.PutUint32(b[20:], ino)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(n.mtime))
	le.PutUint32(b[40:], n.nsec)
	le.PutUint32(b[44:], n.nlink)
	return b
}

// super encodes the block that says where everything is.
func (w *Writer) super(meta, total uint64, inodes int) []byte {
	b := make([]byte, blockSize-superOffset)
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(w.root.nid))
	le.PutUint64(b[16:], uint64(inodes))
	le.PutUint32(b[36:], uint32(total))
	le.PutUint32(b[40:], uint32(meta))
	copy(b[48:], w.uuid[:])
	// The kernel's CRC-32C has no final inversion.
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}
