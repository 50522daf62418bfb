package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// completeLinks prepares an upper layer to be looked at without overlayfs's index.
//
// A file with several names in a lower layer stays one file when it is changed
// under one of them: overlayfs has an index, beside the upper layer, of which file
// of it stands for which below, and finds the other names by that. A layer that is
// only read has no index. So the names that are missing in the upper layer are
// made, by touching the files under them.
//
// The walk looks at every file below, which takes as long as the instance is
// large. It is done only if a name is missing: a file that had several names in
// the image was changed in place, and not under all of them.
func (p *Pool) completeLinks(ctx context.Context, r record, dir string) error {
	missing, err := namesMissing(filepath.Join(dir, "work", "index"))
	if err != nil || !missing {
		return err
	}
	whole, err := p.mount(ctx, r, dir, nil)
	if err != nil {
		return err
	}
	defer whole.Close()
	lowers, _, err := p.lowers(r)
	if err != nil {
		return err
	}
	lowers = append([]string{filepath.Join(dir, "upper")}, lowers...)
	frozen, err := p.ns.overlay(ctx, stack{lowers: lowers}, nil)
	if err != nil {
		return err
	}
	defer frozen.Close()
	root := fmt.Sprintf("/proc/self/fd/%d", frozen.Fd())
	return filepath.WalkDir(root+"/.", func(path string, e fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Nlink > 1 {
			return touchIfOther(fmt.Sprintf("/proc/self/fd/%d%s", whole.Fd(), strings.TrimPrefix(path, root)), st)
		}
		return nil
	})
}

// namesMissing reports whether a file in an index may have names in lower layers
// that the upper one lacks.
func namesMissing(index string) (bool, error) {
	entries, err := os.ReadDir(index)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "#") || e.Type()&fs.ModeCharDevice != 0 {
			continue // its own, and of a file that is gone
		}
		value := make([]byte, 32)
		n, err := unix.Lgetxattr(filepath.Join(index, e.Name()), overlayXattr+"nlink", value)
		// All names are in the upper layer, where the index is one more.
		if err != nil || string(value[:n]) != "U-1" {
			return true, nil
		}
	}
	return false, err
}

// touchIfOther makes a name in the upper layer for a file that the index knows
// and that isn't the one of the lower layer: it was changed at another time.
func touchIfOther(name string, below *syscall.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return err
	}
	if st.Ctim == unix.Timespec(below.Ctim) {
		return nil
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{st.Atim, {Nsec: unix.UTIME_OMIT}}, unix.AT_SYMLINK_NOFOLLOW)
}
