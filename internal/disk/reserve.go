package disk

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Reserve is room that is kept on a file system, for what must go on when it is
// full: nothing could be deleted otherwise, because that is written down first.
type Reserve struct {
	path string
	most int64

	mu   sync.Mutex
	size int64 // what is held, in bytes
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
	want := min(r.most, max(int64(st.Blocks)*st.Bsize/16, leastReserve))
	if r.size >= want || int64(st.Bavail)*st.Bsize < 2*want {
		return nil
	}
	r.size = want // where that can't be done, it is not tried each time
	return r.take()
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
	return true
}

func (r *Reserve) take() error {
	f, err := OpenFile(r.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, r.size); err != nil {
		err = &os.PathError{Op: "fallocate", Path: r.path, Err: err}
		return errors.Join(err, f.Truncate(0), f.Close())
	}
	return f.Close()
}
