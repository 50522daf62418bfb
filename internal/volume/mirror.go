package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A mirror makes one directory like another, in as many passes as one likes: each
// copies only what has changed since the one before. During all passes but the
// last the directory may change, also by somebody who means harm: no symlink in
// it is followed, and it may be as deep as it likes.
type mirror struct {
	from, to string
	root     node
	links    map[uint64]copyName // by inode: the copy of a file with several names
	since    time.Time           // when everything had been written to the disk last
	still    bool                // nothing changes during this pass
	number   int                 // of this pass
	copied   int64               // bytes in this pass

	src, dst *cursor // in the same directory of both
	top      int     // descriptor of the copy's root
	path     []byte  // from the roots to there
}

// copyName is a name of a copy: a directory below the root, and the name in it.
type copyName struct{ dir, name string }

// A node is what is known of a copy.
type node struct {
	ino      uint64
	changed  unix.Timespec
	sure     bool // a later change would have another time
	seen     int  // the last pass that did
	children map[string]*node
}

// clockStep is how far apart two times must be to be told from one another.
const clockStep = 20 * time.Millisecond

// early makes a pass while the directory may change, and tells how much it copied.
//
// A page that a program has mapped can change without a new time of its file once
// it has been written to since it was last on the disk. So everything goes to the
// disk first, and the copy of a file that changed after that is made again.
func (m *mirror) early(ctx context.Context) (int64, error) {
	m.since = time.Now().Add(-clockStep)
	if err := disk.SyncSystem(m.from); err != nil {
		return 0, err
	}
	err := m.pass(ctx)
	return m.copied, err
}

// last makes the last pass.
func (m *mirror) last(ctx context.Context) error {
	m.still = true
	return m.pass(ctx)
}

func (m *mirror) pass(ctx context.Context) error {
	m.number++
	m.copied, m.links, m.path = 0, map[uint64]copyName{}, m.path[:0]
	var err error
	if m.src, err = openCursor(m.from); err != nil {
		return err
	}
	defer func() { m.src.Close() }()
	if m.dst, err = openCursor(m.to); err != nil {
		return err
	}
	defer func() { m.dst.Close() }()
	if m.top, err = unix.Open(m.to, unix.O_PATH|openDirFlags, 0); err != nil {
		return err
	}
	defer unix.Close(m.top)
	err = m.dir(ctx, &m.root)
	if errors.Is(err, errMoved) && !m.still {
		return nil // the next pass sees
	}
	return err
}

// dir brings the copy of a directory up to date.
func (m *mirror) dir(ctx context.Context, n *node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := m.src.lstat(".")
	if err != nil {
		return err
	}
	if !m.same(n, &st) {
		if err := m.attributes(&st); err != nil {
			return err
		}
		m.note(n, &st)
	}
	names, err := m.src.names()
	if err != nil {
		return err
	}
	if n.children == nil {
		n.children = map[string]*node{}
	}
	for _, name := range names {
		err := m.entry(ctx, name, n)
		if err != nil && !m.still && ctx.Err() == nil && !errors.Is(err, errMoved) && kiln.KindOf(err) != kiln.NoSpace {
			err = nil // it went away, or became another; the last pass sees
		}
		if err != nil {
			return of(name, err)
		}
	}
	for name, c := range n.children {
		if c.seen != m.number {
			if err := m.dst.remove(name); err != nil {
				return err
			}
			delete(n.children, name)
		}
	}
	return setTimes(m.dst.path("."), &st)
}

// attributes gives a directory those of the other, and takes away what it had.
func (m *mirror) attributes(st *unix.Stat_t) error {
	to := m.dst.path(".")
	old, err := readXattrs(to)
	if err != nil {
		return err
	}
	for _, x := range old {
		if err := unix.Lremovexattr(to, x.name); err != nil && err != unix.ENODATA {
			return err
		}
	}
	return copyAttributes(m.src.path("."), to, st)
}

// entry brings the copy of one name of a directory up to date.
func (m *mirror) entry(ctx context.Context, name string, p *node) error {
	st, err := m.src.lstat(name)
	if err != nil {
		return err
	}
	n := p.children[name]
	if n != nil && n.children == nil && st.Nlink == 1 && m.same(n, &st) {
		n.seen = m.number // as most are when there is little time
		return nil
	}
	if n != nil && ((n.children != nil) != isDir(&st) || !isDir(&st) && !m.same(n, &st)) {
		if err := m.dst.remove(name); err != nil {
			return err
		}
		delete(p.children, name)
		n = nil
	}
	if isDir(&st) {
		return m.subdir(ctx, name, p)
	}
	if n == nil {
		if err := m.file(name, &st); err != nil {
			return errors.Join(err, m.dst.remove(name))
		}
		m.copied += st.Blocks * 512
		n = &node{}
		m.note(n, &st)
		p.children[name] = n
	}
	if _, ok := m.links[st.Ino]; !ok && st.Nlink > 1 {
		m.links[st.Ino] = copyName{string(m.path), name}
	}
	n.seen = m.number
	return nil
}

// file copies what is no directory, or makes one more name of its copy.
func (m *mirror) file(name string, st *unix.Stat_t) error {
	if first, ok := m.links[st.Ino]; ok {
		return m.link(first, m.dst.fd, name)
	}
	// Names are looked up in the open directory, so that nobody can put another
	// one in its place.
	return copyFile(m.src.path(name), m.dst.path(name), st)
}

// link makes one more name of a copy.
func (m *mirror) link(first copyName, dir int, name string) error {
	at, err := openBeneath(m.top, first.dir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.Linkat(at, first.name, dir, name, 0)
}

func (m *mirror) subdir(ctx context.Context, name string, p *node) error {
	n := p.children[name]
	if n == nil {
		if err := unix.Mkdirat(m.dst.fd, name, 0o700); err != nil {
			return err
		}
		n = &node{children: map[string]*node{}}
		p.children[name] = n
	}
	n.seen = m.number
	if err := m.src.enter(name); err != nil {
		return err
	}
	if err := m.dst.enter(name); err != nil {
		return errors.Join(err, m.src.leave())
	}
	length := len(m.path)
	if length > 0 {
		m.path = append(m.path, '/')
	}
	m.path = append(m.path, name...)
	err := m.dir(ctx, n)
	m.path = m.path[:length]
	if errors.Is(err, errMoved) {
		return err // nothing knows where it is any more
	}
	if lerr := errors.Join(m.dst.leave(), m.src.leave()); lerr != nil {
		return fmt.Errorf("%w: %w", errMoved, lerr)
	}
	return err
}

// same reports whether a copy is what the file still is.
func (m *mirror) same(n *node, st *unix.Stat_t) bool {
	return n.sure && n.ino == st.Ino && n.changed == st.Ctim
}

func (m *mirror) note(n *node, st *unix.Stat_t) {
	n.ino, n.changed = st.Ino, st.Ctim
	n.sure = time.Unix(st.Ctim.Unix()).Before(m.since)
}
