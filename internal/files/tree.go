package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A Type says what is under a path.
type Type string

// The types as they are called on the wire. Special is what has no content to transfer:
// devices, named pipes and sockets.
const (
	File      Type = "file"
	Directory Type = "directory"
	Symlink   Type = "symlink"
	Special   Type = "special"
)

// An Info is what is known of a file. The ids are the container's.
type Info struct {
	Type     Type
	UID, GID uint32
	Mode     uint32 // permissions, with the bits for set-id and sticky
	Size     int64  // bytes; 0 also of files that the kernel makes up as they are read
	Modified time.Time
}

// Attributes are what somebody wants of a file; nil is whatever is usual, or was before.
type Attributes struct {
	UID, GID *uint32
	Mode     *uint32
}

// A Tree is the files of a container, as its root sees them. Paths are absolute; their
// symbolic links are the container's own and lead nowhere else.
//
// Errors are NotFound, Conflict when something else is there, Denied when the container's
// root may not, NoSpace, Invalid, and Timeout when a file system doesn't answer.
type Tree struct {
	client *sftp.Client
	conn   net.Conn
	in     *meter
	stop   func() bool
}

// A meter counts what comes, and ends that when it is too much.
type meter struct {
	io.Reader
	left atomic.Int64
}

var errTooMuch = errors.New("too much")

// Read implements io.Reader.
func (m *meter) Read(b []byte) (int, error) {
	n, err := m.Reader.Read(b)
	if m.left.Add(-int64(n)) < 0 {
		return n, errTooMuch
	}
	return n, err
}

const (
	mostListed = 32 << 20         // bytes of a directory that List reads: 60,000 files with the longest names
	mostTarget = unix.PathMax - 1 // bytes of the target of a symbolic link
)

// concurrent is how many packets of a file are on their way at once.
const concurrent = 16

// NewTree makes a Tree of a connection to a helper, which it closes in the end, or when
// ctx ends.
func NewTree(ctx context.Context, conn net.Conn) (*Tree, error) {
	t := &Tree{conn: conn, in: &meter{Reader: conn}, stop: context.AfterFunc(ctx, func() { conn.Close() })}
	t.in.left.Store(math.MaxInt64)
	c, err := sftp.NewClientPipe(t.in, conn, sftp.MaxPacketUnchecked(packet), sftp.UseConcurrentWrites(true),
		sftp.MaxConcurrentRequestsPerFile(concurrent))
	if err != nil {
		return nil, errors.Join(t.explain("/", err), conn.Close())
	}
	t.client = c
	return t, nil
}

// Close lets go of the connection.
func (t *Tree) Close() error {
	t.stop()
	return t.conn.Close()
}

// Lstat tells what is under a path; of a symbolic link, of the link itself.
func (t *Tree) Lstat(name string) (Info, error) {
	fi, err := t.client.Lstat(name)
	if err != nil {
		return Info{}, t.explain(name, err)
	}
	st := fi.Sys().(*sftp.FileStat)
	i := Info{UID: st.UID, GID: st.GID, Mode: st.Mode & 0o7777, Modified: fi.ModTime(), Size: fi.Size(), Type: Special}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		i.Type = File
	case unix.S_IFDIR:
		i.Type = Directory
	case unix.S_IFLNK:
		i.Type = Symlink
	}
	return i, nil
}

// Readlink gives the target of a symbolic link.
func (t *Tree) Readlink(name string) (string, error) {
	target, err := t.client.ReadLink(name)
	return target, t.explain(name, err)
}

// List gives the names of what is in a directory, sorted. The error is TooLarge when
// there are too many to be kept in memory; the Tree can't be used any more then.
func (t *Tree) List(ctx context.Context, name string) ([]string, error) {
	t.in.left.Store(mostListed)
	list, err := t.client.ReadDirContext(ctx, name)
	if t.in.left.Load() < 0 {
		return nil, kiln.Errorf(kiln.TooLarge, "%q has too many files to list them in one answer; use SFTP, or: kiln exec "+
			"<instance> -- ls", name)
	}
	t.in.left.Store(math.MaxInt64)
	if err != nil {
		return nil, t.explain(name, err)
	}
	names := make([]string, 0, len(list))
	for _, fi := range list {
		names = append(names, fi.Name())
	}
	slices.Sort(names)
	return names, nil
}

// A Reader reads a file. Only its Read and WriteTo may be called once it was begun.
type Reader struct {
	t *Tree
	f *sftp.File
}

// Open opens a file for reading. The error is Invalid for what has no content.
func (t *Tree) Open(name string) (*Reader, error) {
	f, err := t.client.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, t.explain(name, err)
	}
	return &Reader{t, f}, nil
}

// WriteTo implements io.WriterTo. An error of w is given as it is: the helper isn't asked why.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	out := &target{Writer: w}
	n, err := r.f.WriteTo(out)
	if out.err != nil {
		return n, out.err
	}
	return n, r.t.explain(r.f.Name(), err)
}

// A target keeps the error that ended a writer.
type target struct {
	io.Writer
	err error
}

// Write implements io.Writer.
func (t *target) Write(b []byte) (int, error) {
	n, err := t.Writer.Write(b)
	if err != nil {
		t.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (r *Reader) Close() error { return r.f.Close() }

// Write makes a file of what body has, or puts that at the end of one. A new file is as
// fresh says, root's and 0644 where that says nothing; one that is there gets what old
// says. When reading body fails, what was read is in the file.
func (t *Tree) Write(name string, body io.Reader, fresh, old Attributes, add bool) error {
	fi, err := t.client.Stat(name)
	isNew := errors.Is(err, os.ErrNotExist)
	switch {
	case err != nil && !isNew:
		return t.explain(name, err)
	case err == nil && fi.IsDir():
		return kiln.Errorf(kiln.Conflict, "%q is a directory; to put a file into it, write %q and the file's name", name,
			strings.TrimSuffix(name, "/")+"/")
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if add {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	f, err := t.client.OpenFile(name, flags)
	if err != nil {
		return t.explain(name, err)
	}
	// First, so that nobody reads what is meant for its owner only.
	want := old
	if isNew {
		want, err = fresh, t.setNew(name, fresh, newFileMode)
	} else {
		err = t.setOld(name, old)
	}
	switch {
	case err != nil:
	case add: // in order
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{body}, make([]byte, packet))
	default:
		_, err = f.ReadFromWithConcurrency(body, concurrent)
	}
	err = errors.Join(err, f.Close())
	if err == nil && or(want.Mode, 0)&(unix.S_ISUID|unix.S_ISGID) != 0 { // which writing took away
		err = t.client.Chmod(name, fileMode(*want.Mode))
	}
	return t.explain(name, err)
}

// setNew gives what was just made, by root and with the usual mode, its owner and mode.
func (t *Tree) setNew(name string, a Attributes, usual uint32) error {
	if uid, gid := or(a.UID, 0), or(a.GID, 0); uid != 0 || gid != 0 {
		if err := t.client.Chown(name, int(uid), int(gid)); err != nil {
			return t.explain(name, err)
		}
	}
	if mode := or(a.Mode, usual); mode != usual {
		return t.explain(name, t.client.Chmod(name, fileMode(mode)))
	}
	return nil
}

// setOld changes what is wanted of the owner and mode of what was there.
func (t *Tree) setOld(name string, a Attributes) error {
	if a == (Attributes{}) {
		return nil
	}
	now, err := t.client.Stat(name)
	if err != nil {
		return t.explain(name, err)
	}
	st := now.Sys().(*sftp.FileStat)
	if a.UID != nil || a.GID != nil {
		if err := t.client.Chown(name, int(or(a.UID, st.UID)), int(or(a.GID, st.GID))); err != nil {
			return t.explain(name, err)
		}
	}
	// A change of the owner takes bits of the mode away.
	return t.explain(name, t.client.Chmod(name, fileMode(or(a.Mode, st.Mode&0o7777))))
}

func or(p *uint32, other uint32) uint32 {
	if p != nil {
		return *p
	}
	return other
}

// fileMode is a mode as Go has it.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid,
		unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// Mkdir makes a directory as fresh says, root's and 0755 where that says nothing. One that
// is there already gets what old says.
func (t *Tree) Mkdir(name string, fresh, old Attributes) error {
	err := t.client.Mkdir(name)
	if err == nil {
		return t.setNew(name, fresh, newDirMode)
	}
	if fi, serr := t.client.Stat(name); serr != nil || !fi.IsDir() {
		return t.explain(name, err)
	}
	return t.setOld(name, old)
}

// Symlink makes a symbolic link, or changes the target of one.
func (t *Tree) Symlink(target, name string) error {
	if target == "" || len(target) > mostTarget {
		return kiln.Errorf(kiln.Invalid, "the target of a symbolic link has 1 to %d bytes, not %d", mostTarget, len(target))
	}
	err := t.client.Symlink(target, name)
	if err == nil {
		return nil
	}
	old, rerr := t.client.ReadLink(name)
	switch {
	case rerr != nil:
		return t.explain(name, err)
	case old == target:
		return nil
	}
	if err := t.client.Remove(name); err != nil {
		return t.explain(name, err)
	}
	return t.explain(name, t.client.Symlink(target, name))
}

// Remove deletes a file, or a directory that has nothing in it.
func (t *Tree) Remove(name string) error {
	i, err := t.Lstat(name)
	if err != nil {
		return err
	}
	if path.Clean(name) == "/" {
		return kiln.Errorf(kiln.Invalid, "the root directory can't be deleted; delete the instance")
	}
	if i.Type == Directory {
		return t.explain(name, t.client.RemoveDirectory(name))
	}
	return t.explain(name, t.client.Remove(name))
}

// explain makes an error of SFTP one about a path, with its kind.
func (t *Tree) explain(name string, err error) error {
	var status *sftp.StatusError
	var kind kiln.Kind
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return kiln.Errorf(kiln.NotFound, "%q: there is no such file or directory", name)
	case errors.Is(err, os.ErrPermission):
		return kiln.Errorf(kiln.Denied, "%q: the container's root may not do that", name)
	case errors.As(err, &status):
		return failure(name, status)
	case errors.As(err, &kind):
		return err // of the body that was read, or of where it was written to
	}
	if c, ok := t.conn.(*conn); ok {
		return c.why(err)
	}
	return err
}

// failure makes an error of what a helper says.
func failure(name string, status *sftp.StatusError) error {
	// The library gives the text in quotes only.
	text := strings.TrimPrefix(status.Error(), "sftp: ")
	if quoted, err := strconv.QuotedPrefix(text); err == nil {
		text, _ = strconv.Unquote(quoted)
	}
	for errno, kind := range map[unix.Errno]kiln.Kind{
		unix.ENOSPC: kiln.NoSpace, unix.EDQUOT: kiln.NoSpace, unix.EROFS: kiln.Denied,
		unix.EISDIR: kiln.Conflict, unix.ENOTDIR: kiln.Conflict, unix.EEXIST: kiln.Conflict, unix.ENOTEMPTY: kiln.Conflict,
		unix.EBUSY: kiln.Conflict, unix.ETXTBSY: kiln.Conflict, unix.EAGAIN: kiln.Busy,
	} {
		if strings.HasSuffix(text, errno.Error()) {
			return kiln.Errorf(kind, "%q: %s", name, errno.Error())
		}
	}
	return kiln.Errorf(kiln.Invalid, "%q: %s", name, text)
}
