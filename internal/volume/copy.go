package volume

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/archive"
)

// copyTree copies a directory with everything that an upper layer can have in it:
// owners, modes, times, extended attributes, hard links, whiteouts and holes.
// visit counts what is remembered; it may be nil.
func copyTree(ctx context.Context, from, to string, visit *archive.Visit) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	return copyInto(ctx, from, to, visit)
}

func copyInto(ctx context.Context, from, to string, visit *archive.Visit) error {
	m := mirror{from: from, to: to, visit: visit}
	return m.last(ctx)
}

// copyFile makes a copy of what is no directory.
func copyFile(from, to string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if err := copyContent(from, to, st.Ino); err != nil {
			return err
		}
	case unix.S_IFLNK:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(link, to); err != nil {
			return err
		}
	default: // fifos, sockets, and the device 0:0 that is a whiteout
		if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	if err := copyAttributes(from, to, st); err != nil {
		return err
	}
	return setTimes(to, st)
}

// copyContent shares the blocks where the file system can, and else copies what
// isn't a hole. The error is ESTALE when the file has become another one.
func copyContent(from, to string, ino uint64) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if fi.Sys().(*syscall.Stat_t).Ino != ino {
		return unix.ESTALE
	}
	return copyOpen(src, to)
}

// copyOpen is copyContent for a file that is open.
func copyOpen(src *os.File, to string) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	for at := int64(0); at < fi.Size(); {
		start, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // holes up to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return err
		}
		at = end
	}
	return dst.Truncate(fi.Size())
}

// copyAttributes gives a file the owner, mode and extended attributes of another,
// whose state st is.
func copyAttributes(from, to string, st *unix.Stat_t) error {
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return err
		}
	}
	list, err := readXattrs(from)
	if err != nil {
		return err
	}
	return writeXattrs(to, list)
}

// copyRoot gives the root directory of a layer what that of another has, but for
// what overlayfs keeps there for itself.
func copyRoot(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	list, err := readXattrs(from)
	if err != nil {
		return err
	}
	if err := writeXattrs(to, slices.DeleteFunc(list, xattr.ofOverlay)); err != nil {
		return err
	}
	return setTimes(to, &st)
}

// xattr is an extended attribute.
type xattr struct{ name, value string }

// overlayXattr begins the names of what overlayfs keeps in layers for itself.
const overlayXattr = "trusted.overlay."

func (x xattr) ofOverlay() bool { return strings.HasPrefix(x.name, overlayXattr) }

// readXattrs gives the extended attributes of a file, by name, without those that
// the host's security gives every file anyway.
func readXattrs(path string) ([]xattr, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.ENOTSUP || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []xattr
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "security.selinux") {
			continue
		}
		m, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		list = append(list, xattr{name, string(value[:m])})
	}
	slices.SortFunc(list, func(a, b xattr) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

func writeXattrs(path string, list []xattr) error {
	for _, x := range list {
		if err := unix.Lsetxattr(path, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("extended attribute %s: %w", x.name, err)
		}
	}
	return nil
}

func setTimes(path string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
