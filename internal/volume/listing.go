package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// A listing gives the names in a directory one after another, however many there are: it
// has a piece of them in memory. The zero value is at the beginning.
type listing struct {
	buf   []byte // for a piece
	ahead []byte // what of it wasn't given yet
	fd    int    // of the open directory …
	open  bool   // … if it is
	at    int64  // where the directory goes on behind the name that was given last
}

// pieceSize is how many bytes of a directory are read at a time.
const pieceSize = 32 << 10

// openListings is how many directories in each other stay open with a piece in memory, while
// those in them are gone through. Deeper ones are opened again, and read from where they were.
const openListings = 64

// next gives a name that is in a directory, which is the same each time, though by another
// descriptor. Reading it doesn't change when it was read last. The error is io.EOF behind the
// last one.
func (l *listing) next(dir int) (string, error) {
	for {
		if len(l.ahead) == 0 {
			if err := l.read(dir); err != nil {
				return "", err
			}
		}
		// struct linux_dirent64 of getdents64(2): inode, offset, length, type, name.
		const head = 8 + 8 + 2 + 1
		e := l.ahead
		if len(e) < head {
			return "", unix.EIO
		}
		length := int(binary.NativeEndian.Uint16(e[16:]))
		if length < head || length > len(e) {
			return "", unix.EIO
		}
		l.at = int64(binary.NativeEndian.Uint64(e[8:]))
		l.ahead = e[length:]
		name, _, _ := bytes.Cut(e[head:length], []byte{0})
		if s := string(name); s != "." && s != ".." {
			return s, nil
		}
	}
}

func (l *listing) read(dir int) error {
	if !l.open {
		fd, err := unix.Openat(dir, ".", openDirFlags|unix.O_NOATIME, 0)
		if err != nil {
			return err
		}
		l.fd, l.open = fd, true
		if l.at != 0 {
			if _, err := unix.Seek(fd, l.at, unix.SEEK_SET); err != nil {
				return err
			}
		}
	}
	if l.buf == nil {
		l.buf = make([]byte, pieceSize)
	}
	for {
		n, err := unix.Getdents(l.fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		l.ahead = l.buf[:max(n, 0)]
		return err
	}
}

// drop gives the descriptor and the memory back. The listing can be gone on with.
func (l *listing) drop() {
	if l.open {
		unix.Close(l.fd)
	}
	l.fd, l.open, l.buf, l.ahead = 0, false, nil, nil
}

// each calls f for what is in the directory. f may go down into others, if it comes back.
func (c *cursor) each(f func(name string) error) error {
	var l listing
	defer l.drop()
	was := c.list
	c.list = &l
	defer func() { c.list = was }()
	for {
		name, err := l.next(c.fd)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(name)
		}
		if err != nil {
			return err
		}
	}
}

// How many names eachSorted has in memory at once: many in directories that aren't deep, as most
// large ones are.
const (
	sortedMany = 64 << 10
	sortedFew  = 256
	manyAbove  = 8 // directories
)

// eachSorted is each in the order of names. The directory is read once for each sortedMany names.
func (c *cursor) eachSorted(f func(name string) error) error {
	most := sortedMany
	if len(c.above) >= manyAbove {
		most = sortedFew
	}
	for after := ""; ; {
		names, err := c.smallest(after, most)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := f(name); err != nil {
				return err
			}
		}
		if len(names) < most {
			return nil
		}
		after = names[len(names)-1]
	}
}

// smallest gives the first names behind one, in order, and not more than most.
func (c *cursor) smallest(after string, most int) (names []string, err error) {
	bound := "" // names behind it aren't wanted; "": all are
	cut := func() {
		slices.Sort(names)
		if len(names) >= most {
			clear(names[most:])
			names = names[:most]
			bound = names[most-1]
		}
	}
	err = c.each(func(name string) error {
		if name > after && (bound == "" || name < bound) {
			names = append(names, name)
		}
		if len(names) >= 2*most {
			cut()
		}
		return nil
	})
	cut()
	return names, err
}
