package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/rootfd"
)

// errMoved says that a directory was moved while somebody was in it.
var errMoved = errors.New("the directory was moved meanwhile")

// deepest is how many directories below each other are gone down into: who walks a tree needs
// memory for each of them. Tests have less.
var deepest = 200_000

// errDeep says that there are more.
var errDeep = kiln.Errorf(kiln.Unsupported, "there are more than %d directories in each other", deepest)

// A cursor is a place in a tree that others may change, also to do harm: it holds
// one descriptor however deep it is, goes down by names and never through a
// symlink, and up by "..", where it makes sure that it is back.
type cursor struct {
	fd    int
	above []inode
	list  *listing                // by which the directory is gone through; nil: it isn't
	visit *archive.Visit          // counts the directories above; nil: nobody does
	stop  <-chan struct{}         // ends removing when it is closed; nil: nothing does
	raise func(name string) error // takes away a directory that is too far down to be emptied; may be nil
}

// levelSize is what a walk takes for each directory above the place, in bytes.
const levelSize = 2 << 10

// An inode is what a file is, whatever it is called.
type inode struct{ dev, ino uint64 }

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func openCursor(dir string) (*cursor, error) {
	fd, err := unix.Open(dir, openDirFlags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &cursor{fd: fd}, nil
}

// Close lets go of the place.
func (c *cursor) Close() { unix.Close(c.fd) }

// enter goes down into a directory. The error may be errDeep, and that of the visit.
func (c *cursor) enter(name string) error {
	if len(c.above) >= deepest || c.raise != nil && len(c.above) >= deepestRemoved {
		return errDeep
	}
	if c.list != nil && len(c.above) >= openListings {
		c.list.drop()
	}
	if err := c.visit.Add(levelSize); err != nil {
		return err
	}
	here, err := c.inode()
	if err != nil {
		return err
	}
	fd, err := unix.Openat(c.fd, name, openDirFlags, 0)
	if err != nil {
		return err
	}
	unix.Close(c.fd)
	c.fd, c.above = fd, append(c.above, here)
	return nil
}

// leave goes back to where enter was called. After errMoved the cursor is nowhere
// in particular.
func (c *cursor) leave() error {
	fd, err := unix.Openat(c.fd, "..", openDirFlags, 0)
	if err != nil {
		return err
	}
	unix.Close(c.fd)
	_ = c.visit.Add(-levelSize) // of less there is no error
	was := c.above[len(c.above)-1]
	c.fd, c.above = fd, c.above[:len(c.above)-1]
	now, err := c.inode()
	if err == nil && now != was {
		err = errMoved
	}
	return err
}

func (c *cursor) inode() (inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(c.fd, &st)
	return inode{st.Dev, st.Ino}, err
}

// lstat gives the state of a name in the directory.
func (c *cursor) lstat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(c.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// path is a name of the directory for calls that take paths, "." the directory.
func (c *cursor) path(name string) string { return fdPath(c.fd, name) }

// walk calls f for everything below the place. What goes away meanwhile is passed
// over; errMoved ends the walk.
func (c *cursor) walk(ctx context.Context, f func(name string, st *unix.Stat_t) error) error {
	return c.each(func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := c.lstat(name)
		if gone(err) {
			return nil
		}
		if err == nil {
			err = f(name, &st)
		}
		if err != nil || !isDir(&st) {
			return err
		}
		if err := c.enter(name); gone(err) {
			return nil
		} else if err != nil {
			return err
		}
		if err := c.walk(ctx, f); err != nil {
			return err
		}
		return c.leave()
	})
}

// gone reports whether an error means that a name isn't there any more, or is no
// directory any more.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// usage sums up what is allocated below a directory, in bytes. While an instance
// runs, its directories may be moved under the walk's feet: what was counted until
// then is given when that goes on, as it is of a tree that is too deep.
func usage(ctx context.Context, dir string) (total int64, err error) {
	for range 3 {
		if total, err = countBlocks(ctx, dir); !errors.Is(err, errMoved) {
			break
		}
	}
	if errors.Is(err, errMoved) || errors.Is(err, errDeep) {
		err = nil
	}
	return total, err
}

func countBlocks(ctx context.Context, dir string) (int64, error) {
	c, err := openCursor(dir)
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	top, err := c.lstat(".")
	if err != nil {
		return 0, err
	}
	total, seen := top.Blocks*512, map[uint64]bool{}
	err = c.walk(ctx, func(_ string, st *unix.Stat_t) error {
		switch {
		case isDir(st) || st.Nlink == 1:
			total += st.Blocks * 512
		case seen[st.Ino]:
		case len(seen) < mostSeen:
			seen[st.Ino] = true
			total += st.Blocks * 512
		default:
			total += st.Blocks * 512 / int64(st.Nlink)
		}
		return nil
	})
	return total, err
}

// mostSeen is how many files with several names are remembered when a tree is counted. Of more,
// each name counts as its part of the file.
const mostSeen = 1 << 18

// removeTree removes a tree, however deep it is, also one with immutable files in
// it. A tree that isn't there is no error.
func removeTree(dir string) error { return removeUntil(nil, dir) }

// errStopped ends the removal of a tree.
var errStopped = errors.New("it was told to stop")

// removeUntil is removeTree that ends with errStopped when a channel is closed; a nil one never is.
func removeUntil(stop <-chan struct{}, dir string) error {
	err := unix.Unlink(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	c, err := openCursor(dir)
	if err != nil {
		return err
	}
	defer c.Close()
	top, err := unix.Dup(c.fd)
	if err != nil {
		return &os.PathError{Op: "remove", Path: dir, Err: err}
	}
	defer unix.Close(top)
	c.stop = stop
	raised := 0
	c.raise = func(name string) error { // to the top, where it has its turn later
		for {
			raised++
			err := unix.Renameat2(c.fd, name, top, fmt.Sprintf("raised-%d", raised), unix.RENAME_NOREPLACE)
			if !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	}
	if err := c.empty(); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: dir, Err: err}
	}
	return nil
}

// An ofError says what an error is of.
type ofError struct {
	name string
	err  error
}

func (e *ofError) Error() string { return fmt.Sprintf("%.100q: %v", e.name, e.err) }
func (e *ofError) Unwrap() error { return e.err }

// of says what an error is of, unless the error does: through however many directories it is
// given on, its text stays short.
func of(name string, err error) error {
	if e := (*ofError)(nil); errors.As(err, &e) {
		return err
	}
	return &ofError{name, err}
}

// deepestRemoved is how many directories below each other are gone down into by removeTree,
// which has memory for few of them, and what is deeper come up.
const deepestRemoved = 1000

// empty removes what is in the directory. Not every file system gives all names when some go
// while they are read, and others come up: so it ends when there is none.
func (c *cursor) empty() error {
	clearFlags(c.path("."))
	for some := true; some; {
		some = false
		err := c.each(func(name string) error {
			some = true
			if err := c.remove(name); err != nil {
				return of(name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *cursor) remove(name string) error {
	select {
	case <-c.stop:
		return errStopped
	default:
	}
	err := unix.Unlinkat(c.fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	switch eerr := c.enter(name); {
	case eerr == nil:
		err := c.empty()
		if lerr := c.leave(); err != nil || lerr != nil {
			return errors.Join(err, lerr)
		}
		return unix.Unlinkat(c.fd, name, unix.AT_REMOVEDIR)
	case errors.Is(eerr, errDeep) && c.raise != nil:
		clearFlags(c.path(name))
		return c.raise(name)
	case gone(eerr): // a file, which has attributes that keep it
		clearFlags(c.path(name))
		return unix.Unlinkat(c.fd, name, 0)
	default:
		return errors.Join(err, eerr)
	}
}

// openBeneath opens a directory below another by a path of any length, without
// symlinks in it.
func openBeneath(root int, path string) (int, error) {
	const step = 2048 // bytes of a path that one call takes
	fd, err := unix.Openat(root, ".", unix.O_PATH|openDirFlags, 0)
	for err == nil && path != "" {
		part := path
		if len(part) > step {
			cut := strings.LastIndexByte(part[:step], '/')
			if cut < 0 {
				err = unix.ENAMETOOLONG
				break
			}
			part = part[:cut]
		}
		path = strings.TrimPrefix(path[len(part):], "/")
		var next int
		next, err = rootfd.Openat2(fd, part, unix.OpenHow{Flags: unix.O_PATH | openDirFlags,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
		if err == nil {
			unix.Close(fd)
			fd = next
		}
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
	}
	return fd, err
}
