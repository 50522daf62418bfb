package volume

import (
	"archive/tar"
	"context"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A directory that was renamed says in the upper layer, by a redirect, under which path the
// layers below have it (Documentation/filesystems/overlayfs.rst, "redirect_dir"), and a whiteout
// or whatever came since hides it where it was. So of each directory below there is one above, and
// a stack shows no more directories than its layers have. Who sends a layer may say otherwise:
// ten redirects to one directory in each of twelve layers show 10^12, and whoever goes through
// these never comes to an end. Such a layer is refused.

// maxMoved bounds what is remembered of the redirects of one layer, in bytes.
const maxMoved = 32 << 20

// place says where the layers below have a directory that is being made, and notes if that is
// elsewhere. The error is Invalid.
func (u *unpacker) place(d *openDir, base string, h *tar.Header) error {
	in := &u.dirs[len(u.dirs)-1]
	d.alone, d.below = in.alone, path.Join(in.below, base)
	attributes := overlayAttributes(h)
	if attributes["opaque"] == "y" {
		d.alone = true
		return nil
	}
	to, ok := attributes["redirect"]
	if !ok {
		return nil
	}
	if err := checkXattr(overlayXattr+"redirect", to); err != nil {
		return err
	}
	if rest, abs := strings.CutPrefix(to, "/"); abs {
		d.alone, d.below = false, rest // also out of one that is opaque
	} else {
		d.below = path.Join(in.below, to)
	}
	if d.alone {
		return nil
	}
	if other, ok := u.moved[d.below]; ok {
		return twice(d.below, "%q and %q are both redirected to it", other, d.name)
	}
	const each = 100 // what a map takes beside the text
	if u.movedSize += each + len(d.below) + len(d.name); u.movedSize > maxMoved {
		return kiln.Errorf(kiln.Invalid, "more directories were moved in the layer than are taken")
	}
	if u.moved == nil {
		u.moved = map[string]string{}
	}
	u.moved[d.below] = d.name
	return nil
}

// overlayAttributes gives overlayfs's own attributes of an entry.
func overlayAttributes(h *tar.Header) map[string]string {
	list := map[string]string{}
	for record, value := range h.PAXRecords {
		name, _ := xattrName(record)
		if name, ok := strings.CutPrefix(name, overlayXattr); ok {
			list[name] = value
		}
	}
	return list
}

// twice is the error for a directory that a layer shows more than once.
func twice(dir, format string, args ...any) error {
	return kiln.Errorf(kiln.Invalid, "the layer shows directory %.200q of the layers below twice: %w", "/"+dir,
		kiln.Errorf(kiln.Invalid, format, args...))
}

// checkMoved makes sure that the directories below which redirects name aren't seen where they
// were, too. For each the nearest directory that it was in is looked into, if that is shown
// elsewhere, else the root: further ones are looked into for the nearest.
func (u *unpacker) checkMoved(ctx context.Context) error {
	for below, at := range u.moved {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.hidden(below, at); err != nil {
			return err
		}
	}
	return nil
}

// hidden makes sure that a directory below, which is shown at another place, is shown only there.
func (u *unpacker) hidden(below, at string) error {
	in, rest := ".", below
	for cut := len(below); in == "." && cut > 0; {
		if cut = strings.LastIndexByte(below[:cut], '/'); cut > 0 {
			if dir, ok := u.moved[below[:cut]]; ok {
				in, rest = dir, below[cut+1:]
			}
		}
	}
	fd, err := u.below(in)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	for name := range strings.SplitSeq(rest, "/") {
		if in = path.Join(in, name); in == at {
			return nil // it is where it was
		}
		next, err := unix.Openat(fd, name, unix.O_PATH|openDirFlags, 0)
		switch {
		case errors.Is(err, unix.ENOENT):
			return twice(below, "%q is redirected to it, and nothing hides it at %q", at, in)
		case gone(err):
			return nil // a whiteout or a file
		case err != nil:
			return err
		}
		unix.Close(fd)
		fd = next
		for _, attribute := range []string{"opaque", "redirect"} {
			value, ok, err := overlayAttribute(fdPath(fd, "."), attribute)
			if err != nil {
				return err
			}
			if ok && (attribute == "redirect" || value == "y") {
				return nil // it is another one
			}
		}
	}
	return twice(below, "%q is redirected to it, and %q is it", at, in)
}

// checkXattr refuses a redirect out of the layer: the kernel doesn't follow one, but
// merging reads them, too.
func checkXattr(name, value string) error {
	if name != overlayXattr+"redirect" {
		return nil
	}
	rest, abs := strings.CutPrefix(value, "/")
	if _, _, err := split(rest); err != nil || !abs && strings.Contains(rest, "/") {
		return kiln.Errorf(kiln.Invalid, "it is redirected to %q, which is no path", value)
	}
	return nil
}
