package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/rootfd"
)

// The extended attributes by which rsync --fake-super says what a file would be if it could
// make that: statXattr has the mode, the device and the owner; attributes that only root sets
// have their names after fakeXattr. What is no directory is a plain file, and a symlink's
// has the target in it.
const (
	fakeXattr = "user.rsync."
	statXattr = fakeXattr + "%stat"
)

// Found is told of an entry, with its content if it is Regular. It keeps neither.
type Found = func(*Entry, io.Reader) error

// WalkFakeSuper calls fn for every entry of a tree that rsync has received with
// --fake-super, a directory before what is in it, checked as Walk checks those of an
// archive. Nobody may write to the tree any more. Errors: as of Walk.
func WalkFakeSuper(ctx context.Context, dir *os.File, lim Limits, fn Found) error {
	f := fakeTree{walker: walker{lim: lim}, root: dir, links: map[uint64]string{}, fn: fn}
	return f.entry(ctx, ".")
}

// TakeFakeSuper is WalkFakeSuper of a tree that nobody needs any more: the files themselves
// are Given.
func TakeFakeSuper(ctx context.Context, dir *os.File, lim Limits, fn Found) error {
	return WalkFakeSuper(ctx, dir, lim, func(e *Entry, r io.Reader) error {
		if f, ok := r.(*os.File); ok && e.Type == Regular {
			r = Given{f}
		}
		return fn(e, r)
	})
}

// Given is the content of an entry, in a file of which a TreeWriter may make its own, whatever
// else there is of it.
type Given struct{ *os.File }

type fakeTree struct {
	walker
	root  *os.File
	links map[uint64]string // first names of files that have several, by inode
	fn    Found
}

// entry hands on what is at a path, and below it.
func (t *fakeTree) entry(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := rootfd.Openat2(int(t.root.Fd()), name, unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return bad(name, "%w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	e, err := t.read(f, name)
	if err != nil {
		return bad(name, "%w", err)
	}
	if err := t.count(e); err != nil {
		return err
	}
	if err := t.fn(e, f); err != nil || e.Type != Dir {
		return err
	}
	return t.children(ctx, f, name)
}

// children hands on what is in a directory.
func (t *fakeTree) children(ctx context.Context, f *os.File, name string) error {
	names, forget, err := Names(f, t.lim.Entries, t.lim.Visit)
	if err != nil {
		return err
	}
	defer forget()
	if err := f.Close(); err != nil { // however deep it goes
		return err
	}
	for _, n := range names {
		below := path.Join(name, n)
		if len(below) > maxName {
			return bad(below[:64]+"…", "the name is longer than %d bytes", maxName)
		}
		if err := t.entry(ctx, below); err != nil {
			return err
		}
	}
	return nil
}

// read makes an entry of an open file.
func (t *fakeTree) read(f *os.File, name string) (*Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	e := &Entry{Path: name, UID: st.Uid, GID: st.Gid}
	e.ModTime = statTime(st.Mtim)
	mode, is := st.Mode, st.Mode&unix.S_IFMT
	if is != unix.S_IFDIR && is != unix.S_IFREG {
		return nil, errors.New("it is neither a file nor a directory")
	}
	fake, err := fakeXattrs(f, cmp.Or(t.lim.Xattrs, MaxXattrs))
	if err != nil {
		return nil, err
	}
	if s, ok := fake[statXattr]; ok {
		if _, err := fmt.Sscanf(s, "%o %d,%d %d:%d", &mode, &e.Major, &e.Minor, &e.UID, &e.GID); err != nil {
			return nil, fmt.Errorf("it has no owner and mode: %q", s)
		}
	}
	if e.UID >= noID || e.GID >= noID {
		return nil, fmt.Errorf("the owner %d:%d is out of range", e.UID, e.GID)
	}
	e.Mode = mode & 0o7777
	if (mode&unix.S_IFMT == unix.S_IFDIR) != (is == unix.S_IFDIR) {
		return nil, fmt.Errorf("its mode %o is of something else", mode)
	}
	if e.Xattrs, err = keptXattrs(paxOf(fake)); err != nil {
		return nil, err
	}
	return e, t.typed(e, f, mode, &st)
}

func (t *fakeTree) typed(e *Entry, f *os.File, mode uint32, st *unix.Stat_t) error {
	if e.Path == "." && mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.New("the root of the tree is not a directory")
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = Dir
	case unix.S_IFREG:
		e.Type, e.Size = Regular, st.Size
		if st.Nlink > 1 {
			if first, ok := t.links[st.Ino]; ok {
				e.Type, e.Size, e.Link, e.Links, e.Xattrs = Hardlink, 0, first, Regular, nil
				return nil
			}
			t.links[st.Ino] = e.Path
		}
		t.stored += st.Blocks * 512
	case unix.S_IFLNK:
		target, err := io.ReadAll(io.LimitReader(f, maxName))
		if err != nil {
			return err
		}
		e.Type, e.Link, e.Xattrs = Symlink, string(target), nil
		return checkTarget(e.Link)
	case unix.S_IFIFO:
		e.Type = Fifo
	case unix.S_IFSOCK:
		e.Type = Socket
	case unix.S_IFCHR:
		e.Type = CharDevice
	case unix.S_IFBLK:
		e.Type = BlockDevice
	default:
		return fmt.Errorf("its mode %o is of no type of file", mode)
	}
	return nil
}

// fakeXattrs reads the extended attributes of users, which are all that the receiver can set.
// Values that take more than most bytes together are Invalid, and aren't read to the end.
func fakeXattrs(f *os.File, most int) (map[string]string, error) {
	list, err := xattrList(f)
	if err != nil {
		return nil, err
	}
	all, taken := map[string]string{}, 0
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		buf := make([]byte, math.MaxUint16+1)
		n, err := unix.Fgetxattr(int(f.Fd()), name, buf)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		if name != statXattr {
			taken += n
		}
		if taken > most {
			return nil, fmt.Errorf("its extended attributes take more than %d bytes", most)
		}
		all[name] = string(buf[:n])
	}
	return all, nil
}

func xattrList(f *os.File) (string, error) {
	buf := make([]byte, math.MaxUint16+1)
	n, err := unix.Flistxattr(int(f.Fd()), buf)
	if err == unix.EOPNOTSUPP {
		n, err = 0, nil
	}
	return string(buf[:max(n, 0)]), err
}

// paxOf gives the attributes that a file is to have, as an archive has them.
func paxOf(fake map[string]string) map[string]string {
	pax := map[string]string{}
	for name, value := range fake {
		if real, ok := strings.CutPrefix(name, fakeXattr); ok {
			if strings.HasPrefix(real, "user.") {
				continue // only what isn't a user's is kept so
			}
			name = real
		}
		pax[xattrPrefix+name] = value
	}
	return pax
}

func statTime(t unix.Timespec) time.Time { return time.Unix(t.Sec, t.Nsec).UTC() }
