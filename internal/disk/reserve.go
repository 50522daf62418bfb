package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A Reserve is room that is kept on a file system, for what must go on when it is
// full: nothing could be deleted otherwise, because that is written down first.
// It may not be used by several goroutines at once.
type Reserve struct {
	path string
	most int64
	size int64 // while it is held
	held bool
}

// leastReserve is room for a transaction, in bytes.
const leastReserve = 1 << 20

// NewReserve is a reserve in a file, which may be there from before: of at most some
// bytes, and of a sixteenth of a small file system.
func NewReserve(path string, most int64) *Reserve {
	r := &Reserve{path: path, most: most}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && st.Blocks*512 >= min(leastReserve, most) {
		r.size, r.held = st.Blocks*512, true
	}
	return r
}

// Update gives the room away when less than a quarter of it is free beside it, and
// takes it again when twice as much is.
func (r *Reserve) Update(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	free := int64(st.Bavail) * st.Bsize
	switch want := min(r.most, max(int64(st.Blocks)*st.Bsize/16, leastReserve)); {
	case r.held && free < r.size/4:
		r.held = false
		return r.release()
	case !r.held && free >= 2*want:
		// Where that can't be done, it is not tried each time.
		r.held, r.size = true, want
		return r.take()
	}
	return nil
}

func (r *Reserve) take() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, r.size); err != nil {
		err = &os.PathError{Op: "fallocate", Path: r.path, Err: err}
		return errors.Join(err, f.Truncate(0), f.Close())
	}
	return f.Close()
}

// release needs no room for itself.
func (r *Reserve) release() error {
	err := os.Truncate(r.path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
