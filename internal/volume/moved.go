package volume

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// overlayfs remembers in an upper layer which file below each file came from, and in
// the index beside it under which names, by handles: inode numbers of a file system
// with a UUID. A pool that was copied elsewhere, or brought back from a backup, has
// other inode numbers, so these handles name nothing, or files of the pool that it is
// a copy of; overlayfs refuses such a layer with ESTALE. The contents, whiteouts,
// opaque and renamed directories don't depend on handles.
//
// Handles of files in an image stay valid: the image is copied as one EROFS file.

// adopt makes an upper layer that is a copy usable where it is now: what depends on
// handles is replaced by what doesn't, and overlayfs makes new ones. It can be
// interrupted and done again. Nobody may use the volume meanwhile.
func (p *Pool) adopt(ctx context.Context, r record, dir string) error {
	visit := p.walk(ctx)
	defer visit.Leave()
	index := filepath.Join(dir, "work", "index")
	good, stale, err := sortIndex(index, r.Base, visit)
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		if err := p.relink(ctx, r, dir, stale, visit); err != nil {
			return err
		}
	}
	upper := filepath.Join(dir, "upper")
	if err := dropOrigins(ctx, upper, good); err != nil {
		return err
	}
	for _, name := range stale {
		if err := os.Remove(filepath.Join(index, name)); err != nil {
			return err
		}
	}
	// These say that the layer is a copy, so they go when all else is on the disk.
	if err := disk.SyncSystem(dir); err != nil {
		return err
	}
	for _, name := range []string{"origin", "upper"} {
		if err := dropXattr(index, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return dropXattr(upper, "origin")
}

// sortIndex gives the inode numbers of the files in an index whose handles are of files
// in an image, and the names of the others by their inode numbers.
func sortIndex(index string, base kiln.Fingerprint, visit *archive.Visit) (good map[uint64]bool,
	stale map[uint64]string, err error) {
	good, stale = map[uint64]bool{}, map[uint64]string{}
	c, err := openCursor(index)
	if errors.Is(err, fs.ErrNotExist) {
		return good, stale, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	err = c.each(func(name string) error {
		st, err := c.lstat(name)
		if err != nil {
			return of(name, err)
		}
		if uuid := handleUUID(name); !base.IsZero() && uuid == string(base[:len(uuid)]) && uuid != "" {
			good[st.Ino] = true
		} else {
			stale[st.Ino] = name
		}
		return visit.Add(linkSize + int64(len(name)))
	})
	return good, stale, err
}

// handleUUID gives the file system's UUID of a handle in hexadecimal digits, which is
// after version, magic, length, flags and type of a byte each (struct ovl_fb in the
// kernel's fs/overlayfs/overlayfs.h); "": it isn't one.
func handleUUID(name string) string {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) < 5+16 {
		return ""
	}
	return string(b[5 : 5+16])
}

// dropOrigins drops the handles of the files in an upper layer, but for its root and
// those with some inode numbers.
func dropOrigins(ctx context.Context, upper string, keep map[uint64]bool) error {
	c, err := openCursor(upper)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.walk(ctx, func(name string, st *unix.Stat_t) error {
		if keep[st.Ino] {
			return nil
		}
		for _, attribute := range []string{"origin", "nlink"} {
			// A file that can't be changed (chattr +i) came with its file system, not as a copy.
			if err := dropXattr(c.path(name), attribute); err != nil && err != unix.EPERM {
				return fmt.Errorf("attribute %s of %.100q: %w", attribute, name, err)
			}
		}
		return nil
	})
}

// attributes are what overlayfs takes over when it copies a file to the upper layer.
type attributes struct {
	mode, uid, gid uint32
	size           int64
	mtime          unix.Timespec
}

func attributesOf(st *unix.Stat_t) attributes {
	return attributes{st.Mode, st.Uid, st.Gid, st.Size, st.Mtim}
}

// nameless gives the files that are only in an index: those of which the upper layer has
// removed or replaced a name, and no other is in it.
func nameless(index string, stale map[uint64]string) (map[attributes]bool, error) {
	list := map[attributes]bool{}
	for _, name := range stale {
		st, err := lstat(filepath.Join(index, name))
		if err != nil {
			return nil, err
		}
		if st.Nlink == 1 {
			list[attributesOf(st)] = true
		}
	}
	return list, nil
}

// relink does what completeLinks does for files of an upper layer whose handles are of
// no use: what they stand for is what the layers below have at the same path. A file that
// was renamed to where another had been stands for something else: what is below then
// looks like a file that has no name any more.
func (p *Pool) relink(ctx context.Context, r record, dir string, stale map[uint64]string,
	visit *archive.Visit) error {
	lowers, _, err := p.lowers(ctx, r)
	if err != nil {
		return err
	}
	replaced, err := nameless(filepath.Join(dir, "work", "index"), stale)
	if err != nil {
		return err
	}
	whole, err := p.ns.overlay(ctx, stack{lowers: lowers, upper: dir}, nil)
	if err != nil {
		return err
	}
	defer whole.Close()
	c, err := openCursor(fdPath(int(whole.Fd()), "."))
	if err != nil {
		return err
	}
	c.visit = visit
	var names []fileName
	err = c.shared(ctx, &folder{}, &names)
	c.Close()
	if err != nil {
		return err
	}
	// A base that is mounted in the namespace of the pool has no handles that are stale.
	g, err := openMerger(append([]string{filepath.Join(dir, "upper")}, hostPaths(lowers)...))
	if err != nil {
		return err
	}
	defer g.close()
	changed, unchanged := map[inode]fileName{}, map[inode][]fileName{}
	for _, n := range names {
		if err := errors.Join(ctx.Err(), visit.Add(linkSize)); err != nil {
			return err
		}
		above, below, err := g.lookBoth(n.in.path(), n.name)
		switch {
		case err != nil:
			return err
		case below == nil:
		case above == nil:
			of := inode{below.Dev, below.Ino}
			unchanged[of] = append(unchanged[of], n)
		case stale[above.Ino] != "" && above.Mode&unix.S_IFMT == below.Mode&unix.S_IFMT &&
			!replaced[attributesOf(below)]:
			changed[inode{below.Dev, below.Ino}] = n
		}
	}
	for of, n := range changed {
		for _, other := range unchanged[of] {
			err = errors.Join(err, replaceByLink(int(whole.Fd()), n, other))
		}
	}
	return err
}

// hostPaths gives those of a stack's layers that are directories of the host.
func hostPaths(lowers []string) []string {
	var list []string
	for _, l := range lowers {
		if filepath.IsAbs(l) {
			list = append(list, l)
		}
	}
	return list
}

// lookBoth finds what is no directory under a name in a directory, by its path from the
// roots: above in the first layer, and below in the topmost of the others that has it. Each
// is nil if there is none.
func (g *merger) lookBoth(dir, name string) (above, below *unix.Stat_t, err error) {
	r := route{cmp.Or(dir, "."), true}
	for i := range g.fds {
		st, next, hidden, err := g.lookOne(i, r, &name)
		switch {
		case err != nil:
			return nil, nil, err
		case st != nil && isWhiteout(st):
			return above, nil, nil
		case st != nil && i > 0:
			return above, st, nil
		case st != nil:
			above = st
		}
		if hidden {
			return above, nil, nil
		}
		r = next
	}
	return above, nil, nil
}

// lookOne is lookBoth for one layer. It gives the route of the directory for the next one
// and changes the name into what it is there; or says that this layer hides those below.
func (g *merger) lookOne(i int, r route, name *string) (st *unix.Stat_t, next route, hidden bool, err error) {
	var v view
	defer v.close()
	next, hidden, err = g.follow(i, r, &v)
	if err != nil || len(v.dirs) == 0 {
		return nil, next, hidden, err
	}
	file := fdPath(v.dirs[0].fd, *name)
	st, err = lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, next, hidden, nil
	}
	if err != nil {
		return nil, next, hidden, err
	}
	to, hidden, err := redirected(file, route{path.Join(next.path, *name), true}, hidden)
	*name = path.Base(to.path)
	return st, route{path.Dir(to.path), true}, hidden, err
}

// linking is the name of a link before it takes the place of another file.
const linking = ".kiln-link-being-completed"

// replaceByLink makes a file another name of one, in one step, below a root. The directory
// keeps its times.
func replaceByLink(root int, file, other fileName) error {
	dir, err := openBeneath(root, other.in.path())
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	st, err := lstat(fdPath(dir, "."))
	if err != nil {
		return err
	}
	err = unix.Unlinkat(dir, linking, 0) // of an attempt that was interrupted
	if err != nil && err != unix.ENOENT {
		return err
	}
	if err := file.link(root, dir, linking); err != nil {
		return err
	}
	return errors.Join(unix.Renameat(dir, linking, dir, other.name), setTimes(fdPath(dir, "."), st))
}
