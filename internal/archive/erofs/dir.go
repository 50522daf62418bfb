package erofs

import (
	"encoding/binary"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// dirNames gives the names in a directory as they are stored: "." and ".." among
// the others, in byte order.
func dirNames(children map[string]*node) []string {
	names := slices.AppendSeq(make([]string, 0, len(children)+2), maps.Keys(children))
	names = append(names, ".", "..")
	slices.Sort(names)
	return names
}

// eachBlock cuts a directory into blocks: each has its entries, then their names.
func eachBlock(names []string, fn func(names []string, used int)) {
	for len(names) > 0 {
		used, n := 0, 0
		for n < len(names) && used+direntSize+len(names[n]) <= blockSize {
			used += direntSize + len(names[n])
			n++
		}
		fn(names[:n], used)
		names = names[n:]
	}
}

// dirSize is whole blocks but for the last.
func dirSize(children map[string]*node) int64 {
	var size, last int64
	eachBlock(dirNames(children), func(_ []string, used int) {
		size += last
		if last > 0 {
			size += blockSize - last
		}
		last = int64(used)
	})
	return size + last
}

// fillDir encodes a directory into its body.
func (n *node) fillDir() {
	if n.children == nil {
		return
	}
	at := 0
	eachBlock(dirNames(n.children), func(names []string, _ int) {
		block := n.body[at:min(at+blockSize, len(n.body))]
		name := direntSize * len(names)
		for i, s := range names {
			child := n.children[s]
			switch s {
			case ".":
				child = n
			case "..":
				if child = n.parent; child == nil {
					child = n
				}
			}
			d := block[direntSize*i:]
			binary.LittleEndian.PutUint64(d, child.nid)
			binary.LittleEndian.PutUint16(d[8:], uint16(name))
			d[10] = fileType(child.mode)
			name += copy(block[name:], s)
		}
		at += blockSize
	})
}

// fileType is the type of an inode as directories have it.
func fileType(mode uint16) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	case unix.S_IFLNK:
		return 7
	}
	return 0
}

// output writes forward in large pieces. The first error sticks.
type output struct {
	f   *os.File
	at  int64 // where buf goes, in bytes
	buf []byte
	err error
}

func (o *output) write(b []byte) {
	for len(b) > 0 && o.err == nil {
		if len(o.buf) == cap(o.buf) {
			o.flush()
		}
		n := min(len(b), cap(o.buf)-len(o.buf))
		o.buf = append(o.buf, b[:n]...)
		b = b[n:]
	}
}

// seek pads with zeros up to an offset.
func (o *output) seek(to int64) {
	var pad [blockSize]byte
	for o.err == nil {
		gap := to - o.at - int64(len(o.buf))
		if gap <= 0 {
			return
		}
		o.write(pad[:min(gap, blockSize)])
	}
}

func (o *output) flush() error {
	if o.err == nil && len(o.buf) > 0 {
		_, o.err = o.f.WriteAt(o.buf, o.at)
		o.at += int64(len(o.buf))
		o.buf = o.buf[:0]
	}
	return o.err
}
