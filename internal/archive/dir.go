package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// smallFile is the size up to which a file's content is handed to a worker,
// in bytes; larger ones are written while they are read.
const smallFile = 1 << 20

// maxQueued bounds what is remembered of the workers' files.
const maxQueued = 4096

// DirWriter unpacks a tree into a directory, with owners as they are in the
// entries. Nothing outside of the directory is touched, whatever the entries
// say: every path is opened beneath it and without following symlinks.
type DirWriter struct {
	// Devices makes device nodes, in a tree that is only mounted where they don't work.
	// Else they are left out: a container gets its own.
	Devices bool

	root    int
	dirs    map[string]int       // open directories, by path
	order   []string             // of dirs, oldest first
	times   map[string]time.Time // of directories; set last, since making files changes them
	jobs    chan job
	wg      sync.WaitGroup
	pending sync.WaitGroup
	queued  map[string]bool // paths that may be on their way to a worker

	mu  sync.Mutex
	err error // the first of a worker's
}

type job struct {
	dir     int // a descriptor of its own
	e       Entry
	content []byte
}

// NewDirWriter writes into an empty directory with a number of workers.
func NewDirWriter(dir string, workers int) (*DirWriter, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	w := &DirWriter{root: fd, dirs: map[string]int{}, times: map[string]time.Time{}, queued: map[string]bool{},
		jobs: make(chan job, 4*workers)}
	for range workers {
		w.wg.Go(func() {
			for j := range w.jobs {
				w.fail(writeFile(j.dir, &j.e, bytes.NewReader(j.content)))
				unix.Close(j.dir)
				w.pending.Done()
			}
		})
	}
	return w, nil
}

func (w *DirWriter) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

func (w *DirWriter) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Add is TreeWriter's. Small files are written after it returns.
func (w *DirWriter) Add(e *Entry, r io.Reader) error {
	if err := w.failed(); err != nil {
		return err
	}
	return named(e, w.add(e, r))
}

func named(e *Entry, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("unpack %q: %w", e.Path, err)
}

func (w *DirWriter) add(e *Entry, r io.Reader) error {
	if e.Type == Dir {
		return w.makeDir(e)
	}
	dir, err := w.open(path.Dir(e.Path))
	if err != nil {
		return err
	}
	base := path.Base(e.Path)
	if w.queued[e.Path] || e.Type == Hardlink && w.queued[e.Link] || len(w.queued) > maxQueued {
		w.pending.Wait()
		clear(w.queued)
	}
	if err := w.remove(dir, e.Path); err != nil {
		return err
	}
	switch e.Type {
	case Regular:
		return w.file(dir, e, r)
	case Symlink:
		if err := unix.Symlinkat(e.Link, dir, base); err != nil {
			return err
		}
	case Hardlink:
		// Opening the other directory may close this one.
		own, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(own)
		from, err := w.open(path.Dir(e.Link))
		if err != nil {
			return err
		}
		return unix.Linkat(from, path.Base(e.Link), own, base, 0)
	case Fifo:
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case Socket:
		if err := unix.Mknodat(dir, base, unix.S_IFSOCK|0o600, 0); err != nil {
			return err
		}
	default:
		if !w.Devices {
			return nil
		}
		if err := makeDevice(dir, base, e); err != nil {
			return err
		}
	}
	return attributes(dir, base, e)
}

func makeDevice(dir int, base string, e *Entry) error {
	mode := uint32(unix.S_IFCHR)
	if e.Type == BlockDevice {
		mode = unix.S_IFBLK
	}
	if e.Major >= 1<<12 || e.Minor >= 1<<20 {
		return kiln.Errorf(kiln.Invalid, "%d:%d is no device", e.Major, e.Minor)
	}
	return unix.Mknodat(dir, base, mode|0o600, int(unix.Mkdev(e.Major, e.Minor)))
}

// remove makes room for an entry that the archive has a second time: a directory goes
// if it is empty.
func (w *DirWriter) remove(dir int, name string) error {
	err := unix.Unlinkat(dir, path.Base(name), 0)
	if err == unix.EISDIR {
		if fd, ok := w.dirs[name]; ok {
			unix.Close(fd)
			delete(w.dirs, name)
			w.order = slices.DeleteFunc(w.order, func(s string) bool { return s == name })
		}
		delete(w.times, name)
		err = unix.Unlinkat(dir, path.Base(name), unix.AT_REMOVEDIR)
	}
	switch err {
	case unix.ENOENT:
		return nil
	case unix.ENOTEMPTY:
		return kiln.Errorf(kiln.Invalid, "it takes the place of a directory that is not empty")
	}
	return err
}

func (w *DirWriter) file(dir int, e *Entry, r io.Reader) error {
	if g, ok := r.(Given); ok {
		if err := w.take(dir, e, g); err != unix.EXDEV {
			return err
		}
	}
	if e.Size > smallFile {
		return writeFile(dir, e, r)
	}
	content := make([]byte, e.Size)
	if _, err := io.ReadFull(r, content); err != nil {
		return err
	}
	own, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.queued[e.Path] = true
	w.pending.Add(1)
	w.jobs <- job{own, *e, content}
	return nil
}

// take gives a file another name, and what the entry says of it. The error is EXDEV for one of
// another file system.
func (w *DirWriter) take(dir int, e *Entry, g Given) error {
	if err := unix.Linkat(int(g.Fd()), "", dir, path.Base(e.Path), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	list, err := xattrList(g.File)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		if name == "" {
			continue
		}
		if err := unix.Fremovexattr(int(g.Fd()), name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return fileAttributes(int(g.Fd()), e)
}

func writeFile(dir int, e *Entry, r io.Reader) error {
	fd, err := unix.Openat(dir, path.Base(e.Path), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC,
		0o600)
	if err != nil {
		return named(e, err)
	}
	f := os.NewFile(uintptr(fd), e.Path)
	err = copySparse(f, r, e.Size)
	return named(e, errors.Join(err, fileAttributes(fd, e), f.Close()))
}

// copySparse writes size bytes and leaves holes where they are zero.
func copySparse(f *os.File, r io.Reader, size int64) error {
	if size <= smallFile {
		_, err := io.CopyN(f, r, size)
		return err
	}
	buf := make([]byte, 256<<10)
	for off := int64(0); off < size; {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), size-off)])
		if err != nil {
			return err
		}
		if !zero(buf[:n]) {
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return f.Truncate(size)
}

// zero reports whether b is all zeros: each byte is the one before it.
func zero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// fileAttributes sets the owner first, since that clears setuid and capabilities.
func fileAttributes(fd int, e *Entry) error {
	if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	for name, value := range e.Xattrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.EOPNOTSUPP {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	t := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(e.ModTime)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), t, 0)
}

func timespec(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{}
	}
	return ts
}

// attributes is fileAttributes for what can't be opened.
func attributes(dir int, base string, e *Entry) error {
	if err := unix.Fchownat(dir, base, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if e.Type != Symlink {
		if err := unix.Fchmodat(dir, base, e.Mode, 0); err != nil {
			return err
		}
	}
	t := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(e.ModTime)}
	return unix.UtimesNanoAt(dir, base, t, unix.AT_SYMLINK_NOFOLLOW)
}

func (w *DirWriter) makeDir(e *Entry) error {
	if w.queued[e.Path] {
		w.pending.Wait()
		clear(w.queued)
	}
	fd, err := w.open(e.Path)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		var parent int
		if parent, err = w.open(path.Dir(e.Path)); err != nil {
			return err
		}
		if err = w.remove(parent, e.Path); err == nil {
			fd, err = w.open(e.Path)
		}
	}
	if err != nil {
		return err
	}
	w.times[e.Path] = e.ModTime
	if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	for name, value := range e.Xattrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.EOPNOTSUPP {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// maxOpenDirs bounds the descriptors held.
const maxOpenDirs = 128

// open gives a directory, making what is missing of it 0755 root:root. The
// descriptor is the writer's; the next call may close it.
func (w *DirWriter) open(dir string) (int, error) {
	if dir == "." {
		return w.root, nil
	}
	if fd, ok := w.dirs[dir]; ok {
		return fd, nil
	}
	parent, err := w.open(path.Dir(dir))
	if err != nil {
		return -1, err
	}
	base := path.Base(dir)
	fd, err := openDir(parent, base)
	if err == unix.ENOENT {
		if err = unix.Mkdirat(parent, base, 0o755); err == nil {
			fd, err = openDir(parent, base)
		}
		if err == nil {
			err = unix.Fchmod(fd, 0o755) // whatever the umask
		}
	}
	if err != nil {
		return -1, err
	}
	if len(w.order) >= maxOpenDirs {
		// It may be a parent of this one, which has been opened through it by now.
		oldest := w.order[0]
		unix.Close(w.dirs[oldest])
		delete(w.dirs, oldest)
		w.order = w.order[1:]
	}
	w.dirs[dir] = fd
	w.order = append(w.order, dir)
	return fd, nil
}

func openDir(parent int, base string) (int, error) {
	return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// Close is TreeWriter's.
func (w *DirWriter) Close() error {
	close(w.jobs)
	w.wg.Wait()
	err := w.failed()
	for name, modified := range w.times {
		if err != nil {
			break
		}
		t := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(modified)}
		// The path was made by this writer and has no symlink in it.
		err = unix.UtimesNanoAt(w.root, name, t, unix.AT_SYMLINK_NOFOLLOW)
	}
	for _, fd := range w.dirs {
		unix.Close(fd)
	}
	unix.Close(w.root)
	if errors.Is(err, unix.ENOSPC) {
		return kiln.Errorf(kiln.NoSpace, "no space left to unpack the image: %w", err)
	}
	return err
}
