package disk

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A Reserve is room that is kept on a file system, for what must go on when it is
// full: nothing could be deleted otherwise, because that is written down first.
type Reserve struct {
	path string
	most int64

	mu    sync.Mutex
	size  int64 // what is held, in bytes
	never bool  // it can't be had there, full or not: it isn't tried each time
}

// leastReserve is room for a transaction, in bytes.
const leastReserve = 1 << 20

// NewReserve is a reserve in a file, which may be there from before: of at most some
// bytes, and of a sixteenth of a small file system.
func NewReserve(path string, most int64) *Reserve {
	r := &Reserve{path: path, most: most}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		r.size = st.Blocks * 512
	}
	return r
}

// Keep takes the room, or what was given away of it, when twice as much is free.
func (r *Reserve) Keep(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	want := share(&st, r.most)
	if r.never || r.size >= want || int64(st.Bavail)*st.Bsize < 2*want {
		return nil
	}
	return r.take(want)
}

// share is at most some bytes of a file system, and a sixteenth of a small one.
func share(st *unix.Statfs_t, most int64) int64 {
	return min(most, max(int64(st.Blocks)*st.Bsize/16, leastReserve))
}

// Give gives a piece of the room away, to whoever comes first. It reports false when there
// is none left.
func (r *Reserve) Give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size == 0 {
		return false
	}
	left := max(0, r.size-leastReserve)
	if os.Truncate(r.path, left) != nil {
		r.size = 0
		return false
	}
	r.size = left
	var st unix.Statfs_t
	if unix.Statfs(r.path, &st) == nil && st.Type == unix.BTRFS_SUPER_MAGIC {
		_ = SyncSystem(filepath.Dir(r.path)) // before that, nobody can have what was freed
	}
	return true
}

// Use runs f, and again for as long as the disk is full and there is something to give
// beyond what is to be left, in bytes.
func (r *Reserve) Use(leave int64, f func() error) error {
	err := f()
	for errors.Is(err, unix.ENOSPC) && r.held() > leave && r.Give() {
		err = f()
	}
	return err
}

func (r *Reserve) held() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}

func (r *Reserve) take(want int64) error {
	f, err := OpenFile(r.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		r.never = !errors.Is(err, unix.ENOSPC)
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, want); err != nil {
		r.size, r.never = 0, err != unix.ENOSPC && err != unix.EINTR
		err = &os.PathError{Op: "fallocate", Path: r.path, Err: err}
		return errors.Join(err, f.Truncate(0), f.Close())
	}
	r.size = want
	return f.Close()
}

// Preallocate makes a file unless it is there and has its first bytes, at most some and
// fewer on a small file system, take room on the disk, beyond its end: what is written to
// them later needs none, which nobody can take in between either. It is for a file that is
// written again and again from its beginning, and has checksums of its own: on a file
// system that copies on write, it isn't copied. A file system that can't do that is no error.
func Preallocate(path string, most int64) error {
	f, err := OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 { // it is too late for others
		const nocow = 0x00800000 // FS_NOCOW_FL of linux/fs.h
		if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
			_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|nocow))
		}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0,
		min(most, int64(st.Blocks)*st.Bsize/16))
	if err == unix.ENOSPC {
		return &os.PathError{Op: "fallocate", Path: path, Err: err}
	}
	return nil
}
