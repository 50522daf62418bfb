package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A Reserve is room that is kept on a file system, for what must go on when it is
// full: nothing could be deleted otherwise, because that is written down first.
//
// It is of both that a file system can have too little of: bytes, in a file, and what it
// keeps about files, in small files in a directory beside. Whoever makes empty files can use
// up the inodes of one that has a number of them, or all that btrfs has for its trees.
type Reserve struct {
	path string
	most int64

	mu    sync.Mutex
	size  int64     // what is held, in bytes
	small []string  // the small files
	never bool      // it can't be had there, full or not: it isn't tried each time
	again time.Time // small files are left alone until then
}

// leastReserve is room for a transaction, in bytes. There are as many small files as it is
// in the reserve.
const leastReserve = 1 << 20

// patience is how long nothing is taken back of what btrfs has for its trees, once some was
// given away or there was none: to find out that there is none takes a while.
const patience = 10 * time.Second

// filled is what a small file on btrfs has of extended attributes, which are in its trees
// like all that is about files: four fit into a leaf of the usual size, and one into the
// smallest.
const (
	filled    = leastReserve
	attribute = 3840
)

// NewReserve is a reserve in a file and the directory beside it, which may be there from
// before: of at most some bytes, and of a sixteenth of a small file system.
func NewReserve(path string, most int64) *Reserve {
	r := &Reserve{path: path, most: most}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		r.size = st.Blocks * 512
	}
	var fs unix.Statfs_t
	fill := unix.Statfs(r.dir(), &fs) == nil && isBtrfs(&fs)
	d, err := OpenDir(r.dir())
	if err != nil {
		return r // there is none
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		small := filepath.Join(r.dir(), name)
		if n, _ := unix.Llistxattr(small, nil); n > 0 || !fill { // it may be a copy
			r.small = append(r.small, small)
		}
	}
	return r
}

// dir is where the small files are.
func (r *Reserve) dir() string { return r.path + ".d" }

// Keep takes the room, or what was given away of it, when twice as much is free. How much is
// free of what btrfs has for its trees isn't told: that is taken if it can be.
func (r *Reserve) Keep(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if r.never {
		return nil
	}
	want := share(&st, r.most)
	if free := int64(st.Bavail) * st.Bsize; r.size < want && free >= 2*want {
		if err := r.take(want); err != nil {
			return err
		}
	}
	small := int(want / leastReserve)
	switch {
	case len(r.small) >= small:
		return nil
	case isBtrfs(&st):
		if time.Now().Before(r.again) {
			return nil
		}
	case int64(st.Bavail)*st.Bsize < 2*want, st.Files > 0 && st.Ffree < 2*uint64(small):
		return nil
	}
	err := r.takeSmall(small, isBtrfs(&st))
	if err != nil {
		r.again = time.Now().Add(patience)
	}
	return err
}

// share is at most some bytes of a file system, and a sixteenth of a small one.
func share(st *unix.Statfs_t, most int64) int64 {
	return min(most, max(int64(st.Blocks)*st.Bsize/16, leastReserve))
}

func isBtrfs(st *unix.Statfs_t) bool { return st.Type == unix.BTRFS_SUPER_MAGIC }

// Give gives a piece of the room away, of both, to whoever comes first. It reports false
// when there is none left.
func (r *Reserve) Give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	small := r.giveSmall() // first: on btrfs, to cut a file takes room in its trees, and to remove one doesn't
	if bytes := r.giveBytes(); !small && !bytes {
		return false
	}
	var st unix.Statfs_t
	if unix.Statfs(filepath.Dir(r.path), &st) == nil && isBtrfs(&st) {
		r.again = time.Now().Add(patience)
		_ = SyncSystem(filepath.Dir(r.path)) // before that, nobody can have what was freed
	}
	return true
}

func (r *Reserve) giveBytes() bool {
	if r.size == 0 {
		return false
	}
	left := max(0, r.size-leastReserve)
	if err := os.Truncate(r.path, left); err != nil {
		if !errors.Is(err, unix.ENOSPC) {
			r.size = 0
		}
		return false
	}
	r.size = left
	return true
}

func (r *Reserve) giveSmall() bool {
	for len(r.small) > 0 {
		last := len(r.small) - 1
		err := os.Remove(r.small[last])
		r.small = r.small[:last]
		if err == nil {
			return true
		}
	}
	return false
}

// Use runs f, and again for as long as the disk is full and there is something to give
// beyond what is to be left, in bytes.
func (r *Reserve) Use(leave int64, f func() error) error {
	err := f()
	for (errors.Is(err, unix.ENOSPC) || errors.Is(err, kiln.NoSpace)) && r.held() > leave && r.Give() {
		err = f()
	}
	return err
}

func (r *Reserve) held() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.size, int64(len(r.small))*leastReserve)
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

// takeSmall makes the small files that are missing.
func (r *Reserve) takeSmall(want int, fill bool) error {
	err := os.Mkdir(r.dir(), 0o700)
	for n := 0; len(r.small) < want && (err == nil || errors.Is(err, fs.ErrExist)); n++ {
		path := filepath.Join(r.dir(), strconv.Itoa(n))
		if slices.Contains(r.small, path) {
			continue
		}
		if err = makeSmall(path, fill); err == nil {
			r.small = append(r.small, path)
		}
	}
	if len(r.small) >= want {
		return nil
	}
	r.never = !errors.Is(err, unix.ENOSPC)
	return err
}

func makeSmall(path string, fill bool) error {
	// One that is there was not removed when it was given away.
	f, err := OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for n := 0; fill && n < filled/attribute; n++ {
		if err := unix.Fsetxattr(int(f.Fd()), "user.kiln."+strconv.Itoa(n), make([]byte, attribute), 0); err != nil {
			return errors.Join(&os.PathError{Op: "setxattr", Path: path, Err: err}, os.Remove(path))
		}
	}
	return nil
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
