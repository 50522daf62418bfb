package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/rootfd"
)

// entryCost is what a file takes beside its content, in bytes.
const entryCost = 4096

// An unpacker makes a directory of what pack wrote, or somebody who means harm. It
// touches nothing else: a name is made in the directory that was made before it,
// through a descriptor of that, and nothing is followed.
type unpacker struct {
	in    *tar.Reader
	more  map[string]string // extended attributes of the next entry
	dirs  []openDir         // from the root to where entries are made now
	plain bool              // only files and directories, as metadata are
	left  *int64            // bytes that may be written

	moved     map[string]string // directories by where they are in the layers below, of those that say so
	movedSize int               // bytes of these
}

// openDirs is how many of the directories that are being filled are open at once, besides
// the root: whoever sends them decides how deep they are.
const openDirs = 16

// openDir is a directory that is being filled.
type openDir struct {
	fd   int         // -1: it isn't open, since many below it are
	name string      // from the root
	h    *tar.Header // of which only the times are left; nil: of the root, before its entry

	below string // where the layers below have it, from the root
	alone bool   // they don't: it is opaque, or in one that is
}

// unpack makes what pack wrote in a directory that is there and empty, and reads it
// to its end. Errors: Invalid, NoSpace, Integrity for what is damaged or cut.
func unpack(ctx context.Context, r io.Reader, dir string, plain bool, left *int64) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	sum := sha256.New()
	u := unpacker{in: tar.NewReader(io.TeeReader(r, sum)), dirs: []openDir{{fd: fd, name: "."}}, plain: plain, left: left}
	if err = u.all(ctx); err == nil {
		err = checkEnd(r, sum.Sum(nil))
	}
	if err == nil {
		err = u.checkMoved(ctx)
	}
	for len(u.dirs) > 0 {
		err = errors.Join(err, u.leave())
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = kiln.Errorf(kiln.NoSpace, "no space left for the files: %w", err)
	}
	return err
}

// checkEnd makes sure that a tar came whole: its sum follows it, and nothing else.
func checkEnd(r io.Reader, sum []byte) error {
	end := make([]byte, len(sum)+1)
	switch n, err := io.ReadFull(r, end); {
	case err == nil:
		return kiln.Errorf(kiln.Integrity, "the layer goes on behind its end")
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case n < len(sum):
		return kiln.Errorf(kiln.Integrity, "the layer is truncated")
	case !bytes.Equal(end[:n], sum):
		return kiln.Errorf(kiln.Integrity, "the layer is damaged: its SHA-256 is %x, not %x", sum, end[:n])
	}
	return nil
}

func (u *unpacker) all(ctx context.Context) error {
	for first := true; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := u.in.Next()
		if errors.Is(err, io.EOF) && !first && len(u.more) == 0 {
			return nil
		}
		if err != nil {
			return brokenTar(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			if err := u.keep(h); err != nil {
				return err
			}
			continue
		}
		if first {
			first = false
			if h.Typeflag != tar.TypeDir || h.Name != "./" {
				return kiln.Errorf(kiln.Invalid, "the first entry is %q and not the root directory", h.Name)
			}
			u.dirs[0].h = onlyTimes(h)
			u.complete(h)
			err = fdAttributes(u.dirs[0].fd, h)
		} else {
			err = u.entry(h)
		}
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "unpack %q: %w", h.Name, err)
		}
	}
}

// maxMore bounds the extended attributes of one file, in bytes: no file system has
// room for as many.
const maxMore = 16 << 20

// keep takes attributes that don't fit into the header of the entry that follows.
func (u *unpacker) keep(h *tar.Header) error {
	if u.more == nil {
		u.more = map[string]string{}
	}
	for record, value := range h.PAXRecords {
		if _, ok := xattrName(record); !ok {
			return kiln.Errorf(kiln.Invalid, "a global header has %q, which belongs to no file", record)
		}
		u.more[record] = value
	}
	if sizeOf(u.more) > maxMore {
		return kiln.Errorf(kiln.Invalid, "a file has extended attributes of more than %d bytes", maxMore)
	}
	return nil
}

// complete gives an entry the attributes that came before it.
func (u *unpacker) complete(h *tar.Header) {
	if len(u.more) == 0 {
		return
	}
	if h.PAXRecords == nil {
		h.PAXRecords = map[string]string{}
	}
	maps.Copy(h.PAXRecords, u.more)
	u.more = nil
}

// brokenTar is the error for what can't be read. That of the connection goes as it is.
func brokenTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, io.EOF) {
		return kiln.Errorf(kiln.Integrity, "the layer is damaged or truncated: %w", err)
	}
	return err
}

// within gives the directory where entries are made now.
func (u *unpacker) within() (fd int, err error) {
	d := &u.dirs[len(u.dirs)-1]
	if d.fd < 0 {
		if d.fd, err = u.below(d.name); err != nil {
			d.fd = -1
			return -1, fmt.Errorf("open directory %q again: %w", d.name, err)
		}
	}
	return d.fd, nil
}

// enter has entries be made in a directory that is in the one before it.
func (u *unpacker) enter(d openDir) {
	u.dirs = append(u.dirs, d)
	if k := len(u.dirs) - 1 - openDirs; k > 0 && u.dirs[k].fd >= 0 {
		unix.Close(u.dirs[k].fd)
		u.dirs[k].fd = -1
	}
}

// leave is done with a directory: nothing is made in it any more.
func (u *unpacker) leave() error {
	d := u.dirs[len(u.dirs)-1]
	fd, err := u.within()
	u.dirs = u.dirs[:len(u.dirs)-1]
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if d.h == nil {
		return nil
	}
	return fdTimes(fd, d.h)
}

// below opens a directory by its path from the root, on which there are no symlinks.
func (u *unpacker) below(dir string) (fd int, err error) {
	return rootfd.Openat2(u.dirs[0].fd, dir, unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// spend counts bytes that are about to be written. The error is NoSpace.
func (u *unpacker) spend(n int64) error {
	if n < 0 || n > *u.left {
		return kiln.Errorf(kiln.NoSpace, "the files need more space than is free")
	}
	*u.left -= n
	return nil
}

// split checks a name and gives the directory and the name in it.
func split(name string) (dir, base string, err error) {
	if len(name) >= unix.PathMax {
		return "", "", kiln.Errorf(kiln.Invalid, "the path is longer than paths can be")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > unix.NAME_MAX || strings.ContainsRune(part, 0) {
			return "", "", kiln.Errorf(kiln.Invalid, "the path has a part that names nothing: %q", part)
		}
	}
	return path.Dir(name), path.Base(name), nil
}

// entry makes what an entry says.
func (u *unpacker) entry(h *tar.Header) error {
	name := h.Name
	if h.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	dir, base, err := split(name)
	if err != nil {
		return err
	}
	for u.dirs[len(u.dirs)-1].name != dir {
		if len(u.dirs) == 1 {
			return kiln.Errorf(kiln.Invalid, "its directory isn't the one that came before it")
		}
		if err := u.leave(); err != nil {
			return err
		}
	}
	u.complete(h)
	cost := int64(entryCost)
	for k, v := range h.PAXRecords {
		cost += int64(len(k) + len(v))
	}
	if err := u.spend(cost); err != nil {
		return err
	}
	parent, err := u.within()
	if err != nil {
		return err
	}
	if err := u.make(parent, base, name, h); err != nil {
		if err == unix.EEXIST {
			err = kiln.Errorf(kiln.Invalid, "it is there twice")
		}
		return err
	}
	return nil
}

func (u *unpacker) make(parent int, base, name string, h *tar.Header) error {
	kind := h.Typeflag
	if h.PAXRecords[typeRecord] == "socket" && kind == tar.TypeReg {
		kind = 's'
	}
	if u.plain && kind != tar.TypeDir && kind != tar.TypeReg {
		return kiln.Errorf(kiln.Invalid, "metadata are files and directories, not of type %q", kind)
	}
	var err error
	switch kind {
	case tar.TypeDir:
		return u.makeDir(parent, base, name, h)
	case tar.TypeReg:
		return u.makeFile(parent, base, h)
	case tar.TypeLink:
		return u.makeLink(parent, base, h)
	case tar.TypeSymlink:
		if len(h.Linkname) >= unix.PathMax {
			return kiln.Errorf(kiln.Invalid, "the symlink is longer than paths can be")
		}
		err = unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeFifo:
		err = unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0)
	case 's':
		err = unix.Mknodat(parent, base, unix.S_IFSOCK|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		err = makeDevice(parent, base, h)
	default:
		return kiln.Errorf(kiln.Invalid, "no layer has files of type %q", kind)
	}
	if err != nil {
		return err
	}
	return atAttributes(parent, base, h)
}

// makeDevice makes a device, such as the 0:0 that is a whiteout. No layer is mounted
// so that devices work.
func makeDevice(parent int, base string, h *tar.Header) error {
	if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
		return kiln.Errorf(kiln.Invalid, "%d:%d is no device", h.Devmajor, h.Devminor)
	}
	mode := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		mode = unix.S_IFBLK
	}
	return unix.Mknodat(parent, base, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

func (u *unpacker) makeDir(parent int, base, name string, h *tar.Header) error {
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := openDir{fd: fd, name: name, h: onlyTimes(h)}
	err = u.place(&d, base, h)
	u.enter(d)
	return errors.Join(err, fdAttributes(fd, h))
}

// makeLink makes one more name of a file that came before. The path to that is one
// below the root without symlinks.
func (u *unpacker) makeLink(parent int, base string, h *tar.Header) error {
	dir, target, err := split(h.Linkname)
	if err != nil {
		return err
	}
	from, err := u.below(dir)
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "it is a link to %q, which isn't there: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	err = unix.Linkat(from, target, parent, base, 0)
	if err == unix.ENOENT || err == unix.EPERM {
		err = kiln.Errorf(kiln.Invalid, "it is a link to %q, which isn't there or can't be linked", h.Linkname)
	}
	return err
}

// maxFileSize is the largest size of a file with holes, in bytes: 1 EiB. Not every
// file system has a limit below what overflows.
const maxFileSize = 1 << 60

func (u *unpacker) makeFile(parent int, base string, h *tar.Header) error {
	size, list := h.Size, []segment{{0, h.Size}}
	if text, ok := h.PAXRecords[sizeRecord]; ok {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 || size > maxFileSize {
			return kiln.Errorf(kiln.Invalid, "%q is not the size of a file", text)
		}
		if list, err = parseSegments(h.PAXRecords[dataRecord], size, h.Size); err != nil {
			return err
		}
	}
	if err := u.spend(h.Size); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	for _, s := range list {
		if _, err := io.CopyN(io.NewOffsetWriter(f, s.offset), u.in, s.size); err != nil {
			return brokenTar(err)
		}
	}
	if err := f.Truncate(size); errors.Is(err, unix.EFBIG) {
		return kiln.Errorf(kiln.Invalid, "files of %d bytes are too large for this file system", size)
	} else if err != nil {
		return err
	}
	return errors.Join(fdAttributes(fd, h), fdTimes(fd, h))
}

// checkOwner refuses what is no id. That of who mounts overlays is one: whiteouts are
// theirs, and no layer that is only read is mounted with it.
func checkOwner(h *tar.Header) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > workID || int64(h.Gid) > workID {
		return kiln.Errorf(kiln.Invalid, "nobody has the ids %d:%d", h.Uid, h.Gid)
	}
	return nil
}

// fdAttributes sets all but the times. The owner comes first: a new one clears setuid
// and capabilities.
func fdAttributes(fd int, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	if err := errors.Join(unix.Fchown(fd, h.Uid, h.Gid), unix.Fchmod(fd, uint32(h.Mode)&0o7777)); err != nil {
		return err
	}
	return eachXattr(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}

// onlyTimes gives a header of which fdTimes needs no more: whoever sends directories has thousands
// of them be open, with megabytes of attributes each.
func onlyTimes(h *tar.Header) *tar.Header {
	return &tar.Header{AccessTime: h.AccessTime, ModTime: h.ModTime}
}

func fdTimes(fd int, h *tar.Header) error {
	times, err := timesOf(h)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0)
}

// atAttributes sets everything of what can't be opened. The file was made a moment
// ago, in a directory that nobody else has.
func atAttributes(parent int, base string, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return err
		}
	}
	at := fmt.Sprintf("/proc/self/fd/%d/%s", parent, base)
	if err := eachXattr(h, func(name string, value []byte) error {
		return unix.Lsetxattr(at, name, value, 0)
	}); err != nil {
		return err
	}
	times, err := timesOf(h)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(parent, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

func timesOf(h *tar.Header) ([]unix.Timespec, error) {
	var list []unix.Timespec
	for _, t := range []time.Time{h.AccessTime, h.ModTime} {
		ts, err := unix.TimeToTimespec(t)
		if err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "%v is no time of a file", t)
		}
		list = append(list, ts)
	}
	return list, nil
}

func eachXattr(h *tar.Header, set func(name string, value []byte) error) error {
	for record, value := range h.PAXRecords {
		name, ok := xattrName(record)
		if !ok {
			continue
		}
		if err := checkXattr(name, value); err != nil {
			return err
		}
		if err := set(name, []byte(value)); err != nil {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}
