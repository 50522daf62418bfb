package sibling

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shrink gives back the pages of this binary that only its start needed: it has all of the
// daemon in it, and the kernel maps around whatever is touched. What is used is mapped again
// from the page cache. Pages that were written to are not the file's, and stay.
func shrink() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var from, to uintptr
	for line := range bytes.Lines(smaps) {
		f := strings.Fields(string(line))
		switch {
		case len(f) >= 6 && strings.Contains(f[0], "-") && strings.HasPrefix(f[1], "r") && f[1][1] == '-' && f[5] == self:
			low, high, _ := strings.Cut(f[0], "-")
			a, err := strconv.ParseUint(low, 16, 64)
			b, err2 := strconv.ParseUint(high, 16, 64)
			from, to = 0, 0
			if err == nil && err2 == nil {
				from, to = uintptr(a), uintptr(b)
			}
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			from, to = 0, 0 // another file's, or one that can be written to
		case len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && to > from:
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // it is as good without
		}
	}
}
