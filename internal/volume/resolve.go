package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A view is what overlayfs would find under a name in several layers.
type view struct {
	dirs  []found  // directories that are merged, top first …
	file  *os.File // … or the file with the content
	below *folder  // what layers further down have it as; nil: they aren't looked into
}

// found is an open directory of a layer.
type found struct {
	layer, fd int
	at        *folder
}

func (v *view) close() {
	for _, d := range v.dirs {
		unix.Close(d.fd)
	}
	if v.file != nil {
		v.file.Close()
	}
}

// A route is a path of something, from the directory that the merger is in or, if it is far,
// from the roots of the layers.
type route struct {
	path string
	far  bool
}

// look follows a name in the directory that the merger is in through the layers from one
// on, as overlayfs does: a directory that was renamed says under which path the layers below
// have it, and an opaque one, a file or a whiteout hides them. A file whose content is
// further down (a "metacopy") is passed: the view then has its content. below is what the
// layers further down have that directory as. The view is to be closed, also after an error.
func (g *merger) look(from int, name string, below *folder) (view, error) {
	v, r := view{}, route{path: name}
	for i := from; i < len(g.fds); i++ {
		if !r.far && !g.places[i].here {
			continue
		}
		next, hidden, err := g.follow(i, r, &v)
		if err != nil || hidden {
			return v, err
		}
		r = next
	}
	switch {
	case r.far:
		v.below = (&folder{}).under(r.path)
	case below != nil:
		v.below = below.under(r.path)
	}
	return v, nil
}

// follow follows a route in one layer and adds what is there to v. It gives the route for
// the next layer, or that this one hides those below.
func (g *merger) follow(i int, r route, v *view) (next route, hidden bool, err error) {
	dir, at := g.fds[i], g.places[i].at
	if r.far {
		dir, at = g.roots[i], &folder{}
	}
	passed := -1 // a directory on the way, which is open
	defer func() { unix.Close(passed) }()
	next.far = r.far
	parts := strings.Split(r.path, "/")
	for n, name := range parts {
		st, err := lstat(fdPath(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			next.path = path.Join(next.path, path.Join(parts[n:]...))
			return next, hidden, nil
		}
		if err != nil {
			return next, false, err
		}
		next.path = path.Join(next.path, name)
		last := n == len(parts)-1
		if !isDir(st) {
			return lookFile(fdPath(dir, name), st, next, last, hidden, v)
		}
		fd, err := unix.Openat(dir, name, unix.O_PATH|openDirFlags, 0)
		if err != nil {
			return next, false, err
		}
		dir, at = fd, &folder{at, name}
		if last {
			v.dirs = append(v.dirs, found{i, fd, at})
		} else {
			unix.Close(passed)
			passed = fd
		}
		opaque, _, err := overlayAttribute(fdPath(fd, "."), "opaque")
		if err != nil {
			return next, false, err
		}
		if opaque == "y" {
			hidden = true
		} else if next, hidden, err = redirected(fdPath(fd, "."), next, hidden); err != nil {
			return next, false, err
		}
	}
	return next, hidden, nil
}

// lookFile is follow for what is no directory.
func lookFile(file string, st *unix.Stat_t, r route, last, above bool, v *view) (next route, hidden bool, err error) {
	if !last || isWhiteout(st) || len(v.dirs) > 0 {
		return r, true, nil
	}
	_, meta, err := overlayAttribute(file, "metacopy")
	if err != nil {
		return r, true, err
	}
	if meta {
		return redirected(file, r, above)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		v.file, err = os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	return r, true, err
}

// redirected gives the route by which layers below have a directory or a metacopy, which
// this layer has by another. A path from the root leads out of a directory that hides them.
func redirected(file string, r route, above bool) (next route, hidden bool, err error) {
	to, ok, err := overlayAttribute(file, "redirect")
	if err != nil || !ok {
		return r, above, err
	}
	rest, abs := strings.CutPrefix(to, "/")
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || part == "." || part == ".." || !abs && part != rest {
			return r, true, kiln.Errorf(kiln.Integrity, "it is redirected to %.100q, which is no path", to)
		}
	}
	if abs {
		return route{rest, true}, false, nil
	}
	return route{path.Join(path.Dir(r.path), to), r.far}, above, nil
}

// metacopy writes a file of which a layer has all but the content: with the content
// if one of the layers has it, else with the path that it has below them.
func (g *merger) metacopy(layer int, from, name string, st *unix.Stat_t, below *folder) error {
	v, err := g.look(layer, name, below)
	defer v.close()
	if err != nil {
		return err
	}
	to := g.out.path(name)
	switch {
	case v.file != nil:
		err = copyOpen(v.file, to)
	case v.below == nil:
		err = kiln.Errorf(kiln.Integrity, "its content is in none of the layers")
	default:
		err = copyContent(from, to, st.Ino)
	}
	if err != nil {
		return err
	}
	if err := copyAttributes(from, to, st); err != nil {
		return err
	}
	err = dropXattr(to, "redirect")
	switch {
	case v.file != nil:
		err = errors.Join(err, dropXattr(to, "metacopy"))
	case st.Nlink > 1: // for each of its names
		err = errors.Join(err, writeRedirect(to, name, v.below, nil))
	default:
		err = errors.Join(err, writeRedirect(to, name, v.below, below))
	}
	return errors.Join(err, setTimes(to, st))
}

// fdPath is a name in an open directory, which "." is, for calls that take paths.
func fdPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

func lstat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &st, nil
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// isWhiteout reports whether a file of a layer says that there is none.
func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// overlayAttribute gives one of overlayfs's own attributes of a file.
func overlayAttribute(path, name string) (value string, ok bool, err error) {
	buf := make([]byte, 256) // as long as overlayfs makes a redirect
	n, err := unix.Lgetxattr(path, overlayXattr+name, buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10)
		n, err = unix.Lgetxattr(path, overlayXattr+name, buf)
	}
	if err == unix.ENODATA || err == unix.ENOTSUP {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("attribute %s of %s: %w", name, path, err)
	}
	return string(buf[:n]), true, nil
}

func dropXattr(path, name string) error {
	err := unix.Lremovexattr(path, overlayXattr+name)
	if err == unix.ENODATA || err == unix.ENOTSUP {
		return nil
	}
	return err
}
