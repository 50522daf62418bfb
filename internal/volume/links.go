package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/archive"
)

// markXattr marks a file of an upper layer for as long as its names are looked for.
const markXattr = "trusted.kiln.names"

// completeLinks prepares an upper layer to be looked at without overlayfs's index.
//
// A file with several names in a lower layer stays one file when it is changed
// under one of them: overlayfs has an index, beside the upper layer, of which file
// of it stands for which below, and finds the other names by that. A layer that is
// only read has no index. So the names that are missing in the upper layer are
// made, by touching the files under them.
//
// The walk looks at every file below, which takes as long as the instance is
// large. It is done only if a name is missing: a file that had several names in
// the image was changed in place, and not under all of them.
func (p *Pool) completeLinks(ctx context.Context, r record, dir string) error {
	index := filepath.Join(dir, "work", "index")
	incomplete, err := namesMissing(index)
	if err != nil || !incomplete {
		return err
	}
	// An index that came with a copy of the pool is put right by mounting it.
	whole, err := p.mount(ctx, r, dir, nil)
	if err != nil {
		return err
	}
	if err := whole.Close(); err != nil {
		return err
	}
	mark := uuid.NewString() // never one that a crash left behind
	incomplete = false
	err = eachIncomplete(index, func(file string) error {
		incomplete = true
		if err := unix.Lsetxattr(file, markXattr, []byte(mark), 0); err != nil {
			return fmt.Errorf("mark a file of %s to find its names: %w", index, err)
		}
		return nil
	})
	if err == nil && incomplete {
		err = p.touchMarked(ctx, r, dir, mark)
	}
	uerr := eachIndexed(index, func(file string) error {
		if err := unix.Lremovexattr(file, markXattr); err != nil && err != unix.ENOENT && err != unix.ENODATA {
			return err
		}
		return nil
	})
	return errors.Join(err, uerr)
}

// namesMissing reports whether an index has files that may have names in lower layers which
// the upper one lacks.
func namesMissing(index string) (bool, error) {
	errSome := errors.New("there are some")
	err := eachIncomplete(index, func(string) error { return errSome })
	if errors.Is(err, errSome) {
		return true, nil
	}
	return false, err
}

// eachIncomplete calls f for the files in an index, by paths, that may have names in lower
// layers which the upper one lacks.
func eachIncomplete(index string, f func(file string) error) error {
	return eachIndexed(index, func(file string) error {
		// All names are in the upper layer, where the index is one more.
		if n, ok, err := overlayAttribute(file, "nlink"); err == nil && ok && n == "U-1" {
			return nil
		}
		return f(file)
	})
}

// eachIndexed calls f for the files in an index, by paths. One that isn't there has none.
func eachIndexed(index string, f func(file string) error) error {
	c, err := openCursor(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return c.each(func(name string) error {
		st, err := c.lstat(name)
		if gone(err) || err == nil && (strings.HasPrefix(name, "#") || st.Mode&unix.S_IFMT == unix.S_IFCHR) {
			return nil // its own, and of a file that is gone
		}
		if err != nil {
			return of(name, err)
		}
		return f(c.path(name))
	})
}

// touchMarked makes names in the upper layer for the files that have a mark.
func (p *Pool) touchMarked(ctx context.Context, r record, dir, mark string) error {
	// One after the other: a layer can't be read while it is written to.
	visit := p.walk(ctx)
	defer visit.Leave()
	names, err := p.sharedNames(ctx, r, dir, visit)
	if err != nil {
		return err
	}
	whole, err := p.mount(ctx, r, dir, nil)
	if err != nil {
		return err
	}
	defer whole.Close()
	var in *folder
	at := -1
	defer func() { unix.Close(at) }()
	for _, n := range names {
		if at < 0 || n.in != in {
			unix.Close(at)
			if at, err = openBeneath(int(whole.Fd()), n.in.path()); err != nil {
				return fmt.Errorf("find names of a file: %w", err)
			}
			in = n.in
		}
		if err := touchIfMarked(fmt.Sprintf("/proc/self/fd/%d/%s", at, n.name), mark); err != nil {
			return err
		}
	}
	return nil
}

// A folder is a directory of a tree, which may be deeper than any path is long: names in it
// take no more memory for that.
type folder struct {
	above *folder // nil: the tree's root
	name  string
}

// path is relative to the tree's root.
func (f *folder) path() string {
	var names []string
	for ; f.above != nil; f = f.above {
		names = append(names, f.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// under gives a directory below.
func (f *folder) under(path string) *folder {
	for name := range strings.SplitSeq(path, "/") {
		f = &folder{f, name}
	}
	return f
}

// is reports whether two are the same directory of the same tree.
func (f *folder) is(other *folder) bool {
	for f != other {
		if f.above == nil || other.above == nil || f.name != other.name {
			return f.above == nil && other.above == nil
		}
		f, other = f.above, other.above
	}
	return true
}

// fileName is a name of a file that has several.
type fileName struct {
	in   *folder
	name string
}

// size is what is remembered with it, in bytes.
func (f fileName) size() int64 {
	const folderSize = 48
	return linkSize + folderSize + int64(len(f.name)+len(f.in.name))
}

// link makes one more name of the file, which is below a root, in a directory.
func (f fileName) link(root, dir int, name string) error {
	at, err := openBeneath(root, f.in.path())
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.Linkat(at, f.name, dir, name, 0)
}

// sharedNames gives the names of all files that have several, as they look without
// the index. No other can be missing.
func (p *Pool) sharedNames(ctx context.Context, r record, dir string, visit *archive.Visit) ([]fileName, error) {
	lowers, _, err := p.lowers(ctx, r)
	if err != nil {
		return nil, err
	}
	lowers = append([]string{filepath.Join(dir, "upper")}, lowers...)
	frozen, err := p.ns.overlay(ctx, stack{lowers: lowers}, nil)
	if err != nil {
		return nil, err
	}
	defer frozen.Close()
	c, err := openCursor(fmt.Sprintf("/proc/self/fd/%d/.", frozen.Fd()))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.visit = visit
	var list []fileName
	err = c.shared(ctx, &folder{}, &list)
	return list, err
}

// shared adds to a list the names of files below the place that have several, and counts them.
func (c *cursor) shared(ctx context.Context, here *folder, list *[]fileName) error {
	return c.each(func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := c.lstat(name)
		if err != nil {
			return err
		}
		if !isDir(&st) {
			if st.Nlink == 1 {
				return nil
			}
			f := fileName{here, name}
			*list = append(*list, f)
			return c.visit.Add(f.size())
		}
		if err := c.enter(name); err != nil {
			return err
		}
		if err := c.shared(ctx, &folder{here, name}, list); err != nil {
			return err
		}
		return c.leave()
	})
}

func touchIfMarked(name, mark string) error {
	value := make([]byte, len(mark)+1)
	n, err := unix.Lgetxattr(name, markXattr, value)
	if err != nil || string(value[:n]) != mark {
		return nil // another file, or one that can't have any
	}
	st, err := lstat(name)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{st.Atim, {Nsec: unix.UTIME_OMIT}},
		unix.AT_SYMLINK_NOFOLLOW)
}
