package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A Packer writes files and trees into one tar whose bytes depend on nothing else:
// entries sorted by name, owners as numbers, times in whole seconds.
type Packer struct {
	// NoACLs leaves POSIX ACLs out, for what can't hold them: squashfs.
	NoACLs bool
	// Empty and Omit name regular files, as they are in the tar, that are written
	// without what is in them, or not at all.
	Empty, Omit map[string]bool
	// Visit counts what is remembered of a tree; nil: nobody does.
	Visit *Visit

	w     *bufio.Writer
	out   *tar.Writer
	links map[[2]uint64]string // first name of a file with several, by device and inode
	known int64                // bytes that Visit has counted of those
	buf   []byte
}

// maxXattr is how long the kernel lets an extended attribute be, and the names of
// all of a file.
const maxXattr = 64 << 10

// NewPacker makes a Packer. Close finishes the tar; w is not closed.
func NewPacker(w io.Writer) *Packer {
	buffered := bufio.NewWriterSize(w, 64<<10) // a header is a write of its own
	return &Packer{w: buffered, out: tar.NewWriter(buffered), links: map[[2]uint64]string{}, buf: make([]byte, 256<<10)}
}

// Close writes the end of the tar.
func (p *Packer) Close() error { return errors.Join(p.out.Close(), p.w.Flush()) }

// AddFile writes a plain file of root's.
func (p *Packer) AddFile(name string, content []byte, modified time.Time) error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)),
		ModTime: modified.Truncate(time.Second)}
	if err := p.out.WriteHeader(&h); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	_, err := p.out.Write(content)
	return err
}

// AddTree writes a directory and all that is in it, as the entry of a name. Sockets
// are left out, since tar has none. Symlinks are not followed. No file is a hard link to
// one of another tree.
func (p *Packer) AddTree(ctx context.Context, dir *os.File, name string) error {
	clear(p.links) // another mount may have the numbers of the last one
	_ = p.Visit.Add(-p.known)
	p.known = 0
	return p.addDir(ctx, dir, name)
}

func (p *Packer) addDir(ctx context.Context, dir *os.File, name string) error {
	if len(name) >= unix.PathMax {
		return kiln.Errorf(kiln.Unsupported, "pack %.100q…: the path is %d bytes long; archives have paths of up to %d: "+
			"remove the directory", name, len(name), unix.PathMax-1)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	h := header(name+"/", &st)
	h.Typeflag = tar.TypeDir
	if err := p.xattrs(&h, fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd())); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if err := p.out.WriteHeader(&h); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	names, forget, err := Names(dir, 0, p.Visit)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	defer forget()
	for _, n := range names {
		if err := p.add(ctx, dir, n, path.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

func header(name string, st *unix.Stat_t) tar.Header {
	return tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0),
	}
}

// add writes what a directory has under a name.
func (p *Packer) add(ctx context.Context, parent *os.File, base, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		d, err := openIn(parent, base, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer d.Close()
		return p.addDir(ctx, d, name)
	}
	if err := p.addFile(parent, base, name, &st); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

func (p *Packer) addFile(parent *os.File, base, name string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return p.addRegular(parent, base, name)
	}
	h := header(name, st)
	file := fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), base)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		link, err := os.Readlink(file)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, link
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil // a socket
	}
	if there, err := p.link(&h, st); err != nil {
		return err
	} else if there {
		return p.out.WriteHeader(&h)
	}
	if err := p.xattrs(&h, file); err != nil {
		return err
	}
	return p.out.WriteHeader(&h)
}

// link makes the entry of a file a link if the file is there under another name. The errors are
// those of Visit.Add.
func (p *Packer) link(h *tar.Header, st *unix.Stat_t) (there bool, err error) {
	if st.Nlink < 2 {
		return false, nil
	}
	id := [2]uint64{st.Dev, st.Ino}
	first, ok := p.links[id]
	if !ok {
		p.links[id] = h.Name
		bytes := int64(entrySize + len(h.Name))
		p.known += bytes
		return false, p.Visit.Add(bytes)
	}
	h.Typeflag, h.Linkname, h.Size, h.Devmajor, h.Devminor = tar.TypeLink, first, 0, 0, 0
	return true, nil
}

// addRegular writes a file with what is in it. There are many and most are short,
// so a plain descriptor is all that is made for one.
func (p *Packer) addRegular(parent *os.File, base, name string) error {
	fd, err := unix.Openat(int(parent.Fd()), base, openFlags, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return kiln.Errorf(kiln.Conflict, "it is no file any more")
	}
	h := header(name, &st)
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	switch {
	case p.Omit[name]:
		return nil
	case p.Empty[name]:
		h.Size = 0
		return p.out.WriteHeader(&h)
	}
	if there, err := p.link(&h, &st); err != nil {
		return err
	} else if there {
		return p.out.WriteHeader(&h)
	}
	if err := p.attributes(&h, func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(attr string, b []byte) (int, error) {
			return unix.Fgetxattr(fd, attr, b)
		}); err != nil {
		return err
	}
	list, err := p.stretches(fd, h.Size)
	if err != nil {
		return err
	}
	if len(list) != 1 || list[0].size < h.Size {
		return p.sparse(fd, &h, list)
	}
	if err := p.out.WriteHeader(&h); err != nil {
		return err
	}
	return p.content(fd, p.out, list[0])
}

// content writes a stretch of what is in a file.
func (p *Packer) content(fd int, w io.Writer, s stretch) error {
	for s.size > 0 {
		b := p.buf[:min(s.size, int64(len(p.buf)))]
		if err := readAt(fd, b, s.offset); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		s.offset += int64(len(b))
		s.size -= int64(len(b))
	}
	return nil
}

const openFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

func openIn(parent *os.File, base string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), base, flags|openFlags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: base, Err: err}
	}
	return os.NewFile(uintptr(fd), base), nil
}

// xattrs adds the extended attributes that Walk keeps.
func (p *Packer) xattrs(h *tar.Header, file string) error {
	return p.attributes(h, func(b []byte) (int, error) { return unix.Llistxattr(file, b) },
		func(attr string, b []byte) (int, error) {
			return unix.Lgetxattr(file, attr, b)
		})
}

func (p *Packer) attributes(h *tar.Header, list func([]byte) (int, error),
	get func(string, []byte) (int, error)) error {
	names, value := p.buf[:maxXattr], p.buf[maxXattr:2*maxXattr]
	n, err := list(names)
	if err == unix.ENOTSUP || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes: %w", err)
	}
	for attr := range strings.SplitSeq(string(names[:n]), "\x00") {
		if !keepXattr(attr) || p.NoACLs && strings.HasPrefix(attr, "system.posix_acl_") {
			continue
		}
		n, err := get(attr, value)
		if err != nil {
			return fmt.Errorf("extended attribute %s: %w", attr, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+attr] = string(value[:n])
	}
	return nil
}
