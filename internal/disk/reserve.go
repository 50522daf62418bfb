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
	size int64
	held bool
}

// NewReserve is a reserve of some bytes in a file, which may be there from before.
func NewReserve(path string, size int64) *Reserve {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return &Reserve{path: path, size: size, held: err == nil && st.Blocks*512 >= size}
}

// Update gives the room away when less than a quarter of it is free beside it, and
// takes it again when there is plenty.
func (r *Reserve) Update(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	free := int64(st.Bavail) * st.Bsize
	switch {
	case r.held && free < r.size/4:
		r.held = false
		return r.release()
	case !r.held && free >= 4*r.size:
		// Where that can't be done, it is not tried each time.
		r.held = true
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
