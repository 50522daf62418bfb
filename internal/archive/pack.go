package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pack writes a directory as a tar stream whose bytes depend on nothing but the
// tree: entries sorted by name, owners as numbers, times in whole seconds.
// Sockets are left out, since tar has none.
func Pack(ctx context.Context, dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	p := packer{ctx: ctx, root: root, dir: dir, out: tar.NewWriter(w), links: map[[2]uint64]string{}}
	if err := fs.WalkDir(root.FS(), ".", p.visit); err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	return p.out.Close()
}

type packer struct {
	ctx   context.Context
	root  *os.Root
	dir   string
	out   *tar.Writer
	links map[[2]uint64]string // first name of a file with several, by device and inode
}

func (p *packer) visit(name string, _ fs.DirEntry, err error) error {
	if err := errors.Join(err, p.ctx.Err()); err != nil {
		return err
	}
	fi, err := p.root.Lstat(name)
	if err != nil || fi.Mode()&fs.ModeSocket != 0 {
		return err
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = p.root.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.ModTime = name, "", "", fi.ModTime().Truncate(1e9)
	if fi.IsDir() {
		h.Name += "/"
	}
	st := fi.Sys().(*syscall.Stat_t)
	if id := [2]uint64{uint64(st.Dev), st.Ino}; fi.Mode().IsRegular() && st.Nlink > 1 {
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[id] = name
		}
	}
	if h.Typeflag != tar.TypeLink {
		if err := p.xattrs(name, h); err != nil {
			return err
		}
	}
	if err := p.out.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(p.out, f, h.Size)
	return err
}

// xattrs adds the extended attributes that Walk keeps.
func (p *packer) xattrs(name string, h *tar.Header) error {
	file := path.Join(p.dir, name)
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, buf)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes of %s: %w", name, err)
	}
	for attr := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if !keepXattr(attr) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, attr, value)
		if err != nil {
			return fmt.Errorf("extended attribute %s of %s: %w", attr, name, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+attr] = string(value[:n])
	}
	return nil
}
