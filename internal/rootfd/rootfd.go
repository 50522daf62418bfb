// Package rootfd opens paths below a directory that others may change meanwhile, also
// to do harm. It knows system calls only.
package rootfd

import (
	"golang.org/x/sys/unix"
)

// tries bounds how often a look-up that was disturbed is made again. Each takes
// microseconds, and a rename must fall into every one of them to fail them all.
const tries = 1000

// Openat2 is openat2(2), also while somebody on the host renames directories: the
// kernel then can't tell whether ".." stays below the root, and answers EAGAIN.
func Openat2(dir int, path string, how unix.OpenHow) (int, error) {
	how.Flags |= unix.O_CLOEXEC
	var fd int
	var err error
	for range tries {
		if fd, err = unix.Openat2(dir, path, &how); err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}
