package volume

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A mirror makes one directory like another, in as many passes as one likes: each
// copies only what has changed since the one before. During all passes but the
// last the directory may change, also by somebody who means harm: no symlink in
// it is followed, and it may be as deep as it likes, and have as many files.
type mirror struct {
	from, to string
	visit    *archive.Visit // counts what is remembered; nil: nobody does
	seed     maphash.Seed
	files    map[entryKey]node // what is known of the copies of files
	dirs     map[entryKey]copiedDir
	made     uint64              // directories so far
	links    map[uint64]fileName // by inode: the copy of a file with several names
	since    time.Time           // when everything had been written to the disk last
	still    bool                // nothing changes during this pass
	number   uint32              // of this pass
	copied   int64               // bytes in this pass

	src, dst *cursor // in the same directory of both
	top      int     // descriptor of the copy's root
}

// An entryKey stands for a name in a directory of the copy: it is a hash of both, by a seed that
// nobody else knows, since there is no memory for the names of millions of files. Where two
// have one, each is copied anew.
type entryKey uint64

// A node is what is known of a copy.
type node struct {
	ino     uint64
	seconds int64 // when the file was changed …
	nanos   uint32
	seen    uint32 // the last pass that did
	sure    bool   // a later change would have another time
}

// A copiedDir is a directory of the copy. Another one of its name has another number, so that
// nothing that is known of the old one's files is taken for its own.
type copiedDir struct {
	node
	number  uint64
	entries int64 // that it has
}

// What is remembered of a file and of a directory, in bytes.
const (
	nodeSize      = 80
	copiedDirSize = 120
)

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
	if m.number == 0 {
		m.seed, m.files, m.dirs = maphash.MakeSeed(), map[entryKey]node{}, map[entryKey]copiedDir{}
	}
	m.number++
	m.copied, m.links = 0, map[uint64]fileName{}
	var err error
	if m.src, err = openCursor(m.from); err != nil {
		return err
	}
	defer func() { m.src.Close() }()
	m.src.visit = m.visit
	if m.dst, err = openCursor(m.to); err != nil {
		return err
	}
	defer func() { m.dst.Close() }()
	if m.top, err = unix.Open(m.to, unix.O_PATH|openDirFlags, 0); err != nil {
		return err
	}
	defer unix.Close(m.top)
	err = m.dir(ctx, rootKey, &folder{})
	if errors.Is(err, errMoved) && !m.still {
		return nil // the next pass sees
	}
	return err
}

// rootKey stands for the root of the copy.
const rootKey entryKey = 0

// key stands for a name in the directory of the copy with a number.
func (m *mirror) key(number uint64, name string) entryKey {
	var h maphash.Hash
	h.SetSeed(m.seed)
	maphash.WriteComparable(&h, number)
	_, _ = h.WriteString(name) // never fails
	return entryKey(h.Sum64()) | 1
}

// dir brings the copy of a directory up to date.
func (m *mirror) dir(ctx context.Context, key entryKey, here *folder) error {
	st, err := m.src.lstat(".")
	if err != nil {
		return err
	}
	d := m.dirs[key]
	if !m.same(d.node, &st) {
		if err := m.attributes(&st); err != nil {
			return err
		}
		d.node = m.note(&st)
		d.seen = m.number
		m.dirs[key] = d
	}
	p := parent{number: d.number, here: here, entries: d.entries}
	err = m.src.each(func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := m.entry(ctx, name, &p)
		if err != nil && !m.still && ctx.Err() == nil && !errors.Is(err, errMoved) && !lacksRoom(err) {
			p.odd, err = true, nil // it went away, or became another; the last pass sees
		}
		if err != nil {
			return of(name, err)
		}
		return nil
	})
	if err == nil && (p.odd || p.seen != p.entries) {
		err = m.removeUnseen(&p)
	}
	d = m.dirs[key]
	d.entries = p.entries
	m.dirs[key] = d
	if err != nil {
		return err
	}
	return setTimes(m.dst.path("."), &st)
}

// lacksRoom reports whether an error is that of a disk that is full, or of a client whose share
// of the memory is.
func lacksRoom(err error) bool {
	kind := kiln.KindOf(err)
	return kind == kiln.NoSpace || kind == kiln.Busy
}

// A parent is a directory whose copy is brought up to date.
type parent struct {
	number  uint64
	here    *folder // in the copy
	entries int64   // that the copy has …
	seen    int64   // … and of which this pass has seen so many
	odd     bool    // or more, or fewer
}

// removeUnseen removes from the directory of the copy what this pass hasn't seen.
func (m *mirror) removeUnseen(p *parent) error {
	p.entries = 0
	return m.dst.each(func(name string) error {
		key := m.key(p.number, name)
		if m.files[key].seen == m.number || m.dirs[key].seen == m.number {
			p.entries++
			return nil
		}
		m.forget(key)
		if err := m.dst.remove(name); err != nil {
			return of(name, err)
		}
		return nil
	})
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
func (m *mirror) entry(ctx context.Context, name string, p *parent) error {
	st, err := m.src.lstat(name)
	if err != nil {
		return err
	}
	key := m.key(p.number, name)
	file, isFile := m.files[key]
	dir, wasDir := m.dirs[key]
	if isFile && !wasDir && st.Nlink == 1 && m.same(file, &st) { // as most are when there is little time
		return m.sawFile(key, file, p)
	}
	if wasDir && !isDir(&st) || isFile && (isDir(&st) || !m.same(file, &st)) {
		if err := m.dst.remove(name); err != nil {
			return err
		}
		m.forget(key)
		isFile, wasDir = false, false
		p.entries--
		p.odd = p.odd || max(file.seen, dir.seen) == m.number // it was counted
	}
	if isDir(&st) {
		return m.subdir(ctx, name, key, wasDir, p)
	}
	if !isFile {
		if err := m.file(name, &st); err != nil {
			return errors.Join(err, m.dst.remove(name))
		}
		m.copied += st.Blocks * 512
		file = m.note(&st)
		p.entries++
	}
	if _, ok := m.links[st.Ino]; !ok && st.Nlink > 1 {
		first := fileName{p.here, name}
		if err := m.visit.Add(first.size()); err != nil {
			return err
		}
		m.links[st.Ino] = first
	}
	return m.sawFile(key, file, p)
}

// once reports whether there is no other pass, for which something would be remembered.
func (m *mirror) once() bool { return m.still && m.number == 1 }

// sawFile remembers of the copy of a file that it is of this pass.
func (m *mirror) sawFile(key entryKey, n node, p *parent) error {
	if n.seen != m.number {
		p.seen++
	}
	if m.once() {
		return nil
	}
	n.seen = m.number
	before := len(m.files)
	m.files[key] = n
	return m.visit.Add(nodeSize * int64(len(m.files)-before))
}

// forget takes back what is known of a copy that isn't there any more.
func (m *mirror) forget(key entryKey) {
	files, dirs := len(m.files), len(m.dirs)
	delete(m.files, key)
	delete(m.dirs, key)
	files, dirs = files-len(m.files), dirs-len(m.dirs)
	_ = m.visit.Add(-nodeSize*int64(files) - copiedDirSize*int64(dirs)) // of less there is no error
}

// file copies what is no directory, or makes one more name of its copy.
func (m *mirror) file(name string, st *unix.Stat_t) error {
	if first, ok := m.links[st.Ino]; ok {
		return first.link(m.top, m.dst.fd, name)
	}
	// Names are looked up in the open directory, so that nobody can put another
	// one in its place.
	return copyFile(m.src.path(name), m.dst.path(name), st)
}

func (m *mirror) subdir(ctx context.Context, name string, key entryKey, there bool, p *parent) error {
	if !there {
		if err := m.visit.Add(copiedDirSize); err != nil {
			return err
		}
		if err := unix.Mkdirat(m.dst.fd, name, 0o700); err != nil {
			return err
		}
		m.made++
		p.entries++
		m.dirs[key] = copiedDir{number: m.made}
	}
	if d := m.dirs[key]; d.seen != m.number {
		p.seen++
		d.seen = m.number
		m.dirs[key] = d
	}
	if err := m.src.enter(name); err != nil {
		return err
	}
	if err := m.dst.enter(name); err != nil {
		return errors.Join(err, m.src.leave())
	}
	err := m.dir(ctx, key, &folder{p.here, name})
	if errors.Is(err, errMoved) {
		return err // nothing knows where it is any more
	}
	if m.once() {
		m.forget(key)
	}
	if lerr := errors.Join(m.dst.leave(), m.src.leave()); lerr != nil {
		return fmt.Errorf("%w: %w", errMoved, lerr)
	}
	return err
}

// same reports whether a copy is what the file still is.
func (m *mirror) same(n node, st *unix.Stat_t) bool {
	return n.sure && n.ino == st.Ino && n.seconds == st.Ctim.Sec && n.nanos == uint32(st.Ctim.Nsec)
}

// note gives what is known of a copy that was made just now, and that this pass has seen.
func (m *mirror) note(st *unix.Stat_t) node {
	return node{ino: st.Ino, seconds: st.Ctim.Sec, nanos: uint32(st.Ctim.Nsec),
		sure: time.Unix(st.Ctim.Unix()).Before(m.since)}
}
