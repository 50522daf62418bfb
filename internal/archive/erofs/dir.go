package erofs

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// children are what is in a directory. Most have a few, for which a map would be large.
type children struct {
	few  []child
	many map[string]*node // nil until they are more than fewChildren
}

const fewChildren = 8

type child struct {
	name string
	node *node
}

func (c *children) len() int {
	if c == nil {
		return 0
	}
	return len(c.few) + len(c.many)
}

func (c *children) at(name string) int {
	return slices.IndexFunc(c.few, func(c child) bool { return c.name == name })
}

// get finds what has a name; nil: nothing.
func (c *children) get(name string) *node {
	if c == nil {
		return nil
	}
	if i := c.at(name); i >= 0 {
		return c.few[i].node
	}
	return c.many[name]
}

func (c *children) remove(name string) {
	if c == nil {
		return
	}
	delete(c.many, name)
	if i := c.at(name); i >= 0 {
		c.few = slices.Delete(c.few, i, i+1)
	}
}

// sorted gives all in byte order.
func (c *children) sorted() []child {
	if c == nil {
		return nil
	}
	all := make([]child, 0, c.len()+2) // for who adds "." and ".."
	all = append(all, c.few...)
	for name, n := range c.many {
		all = append(all, child{name, n})
	}
	slices.SortFunc(all, byName)
	return all
}

func byName(a, b child) int { return strings.Compare(a.name, b.name) }

// put gives what is in a directory a name that is free.
func (n *node) put(name string, made *node) {
	if n.children == nil {
		n.children = &children{}
	}
	c := n.children
	name = strings.Clone(name) // not all of the path
	switch {
	case c.many != nil:
		c.many[name] = made
	case len(c.few) < fewChildren:
		c.few = append(c.few, child{name, made})
	default:
		c.many = map[string]*node{name: made}
		for _, f := range c.few {
			c.many[f.name] = f.node
		}
		c.few = nil
	}
}

// entries gives what a directory stores: "." and ".." among the others, in byte order.
func (n *node) entries() []child {
	up := n.parent
	if up == nil {
		up = n
	}
	all := append(n.children.sorted(), child{".", n}, child{"..", up})
	slices.SortFunc(all, byName)
	return all
}

// eachBlock cuts a directory into blocks: each has its entries, then their names.
func eachBlock(all []child, fn func(part []child, used int)) {
	for len(all) > 0 {
		used, n := 0, 0
		for n < len(all) && used+direntSize+len(all[n].name) <= blockSize {
			used += direntSize + len(all[n].name)
			n++
		}
		fn(all[:n], used)
		all = all[n:]
	}
}

// dirSize is whole blocks but for the last.
func (n *node) dirSize() int64 {
	var size, last int64
	eachBlock(n.entries(), func(_ []child, used int) {
		size += last
		if last > 0 {
			size += blockSize - last
		}
		last = int64(used)
	})
	return size + last
}

// dirBody encodes a directory.
func (n *node) dirBody() []byte {
	body, at := make([]byte, n.size), 0
	eachBlock(n.entries(), func(part []child, _ int) {
		block := body[at:min(at+blockSize, len(body))]
		name := direntSize * len(part)
		for i, c := range part {
			d := block[direntSize*i:]
			binary.LittleEndian.PutUint64(d, c.node.nid)
			binary.LittleEndian.PutUint16(d[8:], uint16(name))
			d[10] = fileType(c.node.mode)
			name += copy(block[name:], c.name)
		}
		at += blockSize
	})
	return body
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
