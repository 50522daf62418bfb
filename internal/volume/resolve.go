package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A place is a file in one of a merger's layers.
type place struct {
	layer int
	path  string
}

// A view is what overlayfs would find at a path of several layers.
type view struct {
	dirs  []place // directories that are merged, top first …
	file  *place  // … or the file that is there
	below *string // where layers further down are looked into; nil: they aren't
}

// resolve follows a path through the layers from one on, as overlayfs does: a
// directory that was renamed says under which path the layers below have it, and
// an opaque one, a file or a whiteout hides them. A file whose content is further
// down (a "metacopy") is passed: the view then has its content.
func (g *merger) resolve(from int, path string) (view, error) {
	v := view{}
	for i := from; i < len(g.layers); i++ {
		next, hidden, err := g.look(i, path, &v)
		if err != nil || hidden {
			return v, err
		}
		path = next
	}
	v.below = &path
	return v, nil
}

// look looks for a path in one layer and adds what is there to v. It gives the path
// for the next layer, or that this one hides those below.
func (g *merger) look(i int, path string, v *view) (next string, hidden bool, err error) {
	here := g.layers[i]
	if path == "." {
		v.dirs = append(v.dirs, place{i, here})
		return path, false, nil
	}
	parts := strings.Split(path, "/")
	for n, name := range parts {
		here = filepath.Join(here, name)
		st, err := lstat(here)
		if errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(next, filepath.Join(parts[n:]...)), hidden, nil
		}
		if err != nil {
			return "", false, err
		}
		last := n == len(parts)-1
		next = filepath.Join(next, name)
		if !isDir(st) {
			return lookFile(place{i, here}, st, next, last, hidden, v)
		}
		if last {
			v.dirs = append(v.dirs, place{i, here})
		}
		opaque, _, err := overlayAttribute(here, "opaque")
		if err != nil {
			return "", false, err
		}
		if opaque == "y" {
			hidden = true
		} else if next, hidden, err = redirected(here, next, hidden); err != nil {
			return "", false, err
		}
	}
	return next, hidden, nil
}

// lookFile is look for what is no directory.
func lookFile(p place, st *unix.Stat_t, path string, last, above bool, v *view) (next string, hidden bool, err error) {
	if !last || isWhiteout(st) || len(v.dirs) > 0 {
		return "", true, nil
	}
	if _, meta, err := overlayAttribute(p.path, "metacopy"); err != nil || !meta {
		v.file = &p
		return "", true, err
	}
	return redirected(p.path, path, above)
}

// redirected gives the path that layers below have a directory or a metacopy at,
// which this layer has at another. A path from the root leads out of a directory
// that hides them.
func redirected(file, path string, above bool) (next string, hidden bool, err error) {
	to, ok, err := overlayAttribute(file, "redirect")
	if err != nil || !ok {
		return path, above, err
	}
	if abs, ok := strings.CutPrefix(to, "/"); ok {
		return filepath.Clean(abs), false, nil
	}
	return filepath.Join(filepath.Dir(path), to), above, nil
}

// metacopy writes a file of which a layer has all but the content: with the content
// if one of the layers has it, else with the path that it has below them.
func (g *merger) metacopy(d place, from, to, path string, st *unix.Stat_t, parentBelow *string) error {
	v, err := g.resolve(d.layer, g.inLayer(d, filepath.Base(path)))
	if err != nil {
		return err
	}
	content := from
	switch {
	case v.file != nil:
		content = v.file.path
	case v.below == nil:
		return kiln.Errorf(kiln.Integrity, "the content of %s is in none of the layers", path)
	}
	in, err := lstat(content)
	if err != nil {
		return err
	}
	if err := copyContent(content, to, in.Ino); err != nil {
		return err
	}
	if err := copyAttributes(from, to, st); err != nil {
		return err
	}
	if v.file != nil {
		err = errors.Join(dropXattr(to, "metacopy"), dropXattr(to, "redirect"))
	} else if st.Nlink > 1 || parentBelow == nil || *v.below != filepath.Join(*parentBelow, filepath.Base(path)) {
		err = writeXattrs(to, []xattr{{overlayXattr + "redirect", "/" + *v.below}})
	} else {
		err = dropXattr(to, "redirect")
	}
	return errors.Join(err, setTimes(to, st))
}

// inLayer gives the path of a name in a directory of a layer.
func (g *merger) inLayer(d place, name string) string {
	rel, err := filepath.Rel(g.layers[d.layer], d.path)
	if err != nil {
		return name // both are absolute
	}
	return filepath.Join(rel, name)
}

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
	buf := make([]byte, unix.PathMax)
	n, err := unix.Lgetxattr(path, overlayXattr+name, buf)
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
