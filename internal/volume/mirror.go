package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A mirror makes one directory like another, in as many passes as one likes: each
// copies only what has changed since the one before. During all passes but the
// last the directory may change, also by somebody who means harm: no symlink in
// it is followed.
type mirror struct {
	from, to string
	root     node
	links    map[uint64]string // by inode: the copy of a file with several names
	since    time.Time         // when everything had been written to the disk last
	still    bool              // nothing changes during this pass
	copied   int64             // bytes in this pass
}

// A node is what is known of a copy.
type node struct {
	ino      uint64
	changed  unix.Timespec
	sure     bool // a later change would have another time
	seen     bool // in this pass
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
	if err := syncFS(m.from); err != nil {
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
	m.copied, m.links = 0, map[uint64]string{}
	d, err := os.OpenFile(m.from, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return m.dir(ctx, d, m.to, &m.root)
}

// dir brings the copy of a directory up to date.
func (m *mirror) dir(ctx context.Context, src *os.File, to string, n *node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return err
	}
	if !m.same(n, &st) {
		if err := m.attributes(src, to, &st); err != nil {
			return err
		}
		m.note(n, &st)
	}
	names, err := src.Readdirnames(-1)
	if err != nil {
		return err
	}
	if n.children == nil {
		n.children = map[string]*node{}
	}
	for _, name := range names {
		err := m.entry(ctx, src, name, to, n)
		if err != nil && !m.still && ctx.Err() == nil && kiln.KindOf(err) != kiln.NoSpace {
			err = nil // it went away, or became another; the last pass sees
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	for name, c := range n.children {
		if !c.seen {
			if err := removeTree(filepath.Join(to, name)); err != nil {
				return err
			}
			delete(n.children, name)
		}
		c.seen = false
	}
	return setTimes(to, &st)
}

// attributes gives a directory those of another, and takes away what it had.
func (m *mirror) attributes(src *os.File, to string, st *unix.Stat_t) error {
	old, err := readXattrs(to)
	if err != nil {
		return err
	}
	for _, x := range old {
		if err := unix.Lremovexattr(to, x.name); err != nil && err != unix.ENODATA {
			return err
		}
	}
	return copyAttributes(fmt.Sprintf("/proc/self/fd/%d/.", src.Fd()), to, st)
}

// entry brings the copy of one name of a directory up to date.
func (m *mirror) entry(ctx context.Context, parent *os.File, name, dir string, p *node) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	n := p.children[name]
	if n != nil && n.children == nil && st.Nlink == 1 && m.same(n, &st) {
		n.seen = true // as most are when there is little time
		return nil
	}
	to := filepath.Join(dir, name)
	if n != nil && ((n.children != nil) != isDir(&st) || !isDir(&st) && !m.same(n, &st)) {
		if err := removeTree(to); err != nil {
			return err
		}
		delete(p.children, name)
		n = nil
	}
	if isDir(&st) {
		return m.subdir(ctx, parent, name, to, p)
	}
	if n == nil {
		// Names are looked up in the open directory, so that nobody can put
		// another one in its place.
		from := fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name)
		if err := copyFile(from, to, &st, m.links); err != nil {
			return errors.Join(err, removeTree(to))
		}
		m.copied += st.Blocks * 512
		n = &node{}
		m.note(n, &st)
		p.children[name] = n
	} else if st.Nlink > 1 {
		m.links[st.Ino] = to
	}
	n.seen = true
	return nil
}

func (m *mirror) subdir(ctx context.Context, parent *os.File, name, to string, p *node) error {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	n := p.children[name]
	if n == nil {
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		n = &node{children: map[string]*node{}}
		p.children[name] = n
	}
	n.seen = true
	return m.dir(ctx, d, to, n)
}

// same reports whether a copy is what the file still is.
func (m *mirror) same(n *node, st *unix.Stat_t) bool {
	return n.sure && n.ino == st.Ino && n.changed == st.Ctim
}

func (m *mirror) note(n *node, st *unix.Stat_t) {
	n.ino, n.changed = st.Ino, st.Ctim
	n.sure = time.Unix(st.Ctim.Unix()).Before(m.since)
}
