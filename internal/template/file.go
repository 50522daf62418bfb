package template

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/rootfd"
)

// A target is the place of a file in a root filesystem. Symlinks are followed as
// they would be inside: an absolute one begins at the root of the tree.
type target struct {
	root *os.File // the root of the tree
	name string   // relative to it
	file *os.File // what is there, only looked at; nil for nothing
}

// find looks at what is at a path. The error is Invalid for what can't become a
// plain file.
func find(rootfs *os.Root, name string) (*target, error) {
	t := &target{name: strings.TrimLeft(path.Clean("/"+name), "/")}
	if t.name == "" || strings.ContainsAny(name, "\x00\n") {
		return nil, kiln.Errorf(kiln.Invalid, "the path can't be a file's")
	}
	var err error
	if t.root, err = rootfs.Open("."); err != nil {
		return nil, err
	}
	// O_PATH: to open a device or a fifo can be more than looking at it.
	t.file, err = t.open(t.name, unix.O_PATH, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return t, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		err = kiln.Errorf(kiln.Invalid, "a file or a loop of symlinks is in the way: %w", err)
	case err == nil:
		fi, serr := t.file.Stat()
		if err = serr; err == nil && !fi.Mode().IsRegular() {
			err = kiln.Errorf(kiln.Invalid, "it is there and no plain file")
		}
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Close lets go of the place.
func (t *target) Close() {
	t.root.Close()
	if t.file != nil {
		t.file.Close()
	}
}

func (t *target) exists() bool { return t.file != nil }

func (t *target) open(name string, flags, mode uint64) (*os.File, error) {
	fd, err := rootfd.Openat2(int(t.root.Fd()), name, unix.OpenHow{
		Flags: flags, Mode: mode, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// write gives the file its text. One that was there keeps its owner and mode; a
// new one has those of the entry.
func (t *target) write(text []byte, e Entry) error {
	var f *os.File
	var err error
	if t.exists() {
		f, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", t.file.Fd()), os.O_WRONLY|os.O_TRUNC, 0)
	} else {
		f, err = t.create(e)
	}
	if errors.Is(err, unix.ENOENT) {
		return kiln.Errorf(kiln.Invalid, "a symlink on the way leads nowhere: %w", err)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func (t *target) create(e Entry) (*os.File, error) {
	mode, err1 := number("mode", e.Mode, 8, 12, 0o644)
	uid, err2 := number("UID", e.UID, 10, 31, 0)
	gid, err3 := number("GID", e.GID, 10, 31, 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if err := t.makeParents(path.Dir(t.name)); err != nil {
		return nil, fmt.Errorf("make its directory: %w", err)
	}
	// A dangling symlink is followed too, as it would be inside.
	f, err := t.open(t.name, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	// The owner first: a change of it takes setuid and setgid away.
	if err := errors.Join(f.Chown(uid, gid), unix.Fchmod(int(f.Fd()), uint32(mode))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// number reads what an entry says of a new file. The error is Invalid.
func number(what, text string, base, bits, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, base, bits)
	if err != nil {
		return 0, kiln.Errorf(kiln.Invalid, "Bad file %s: %q", what, text)
	}
	return int(n), nil
}

// makeParents makes the directories that a path lacks, 0755 and the root's.
func (t *target) makeParents(dir string) error {
	if dir == "." {
		return nil
	}
	f, err := t.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := t.makeParents(path.Dir(dir)); err != nil {
		return err
	}
	parent, err := t.open(path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(dir), 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return unix.Fchmodat(int(parent.Fd()), path.Base(dir), 0o755, 0) // whatever the umask
}
