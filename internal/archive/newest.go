package archive

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Newest tells when the last of the files in a directory was changed, the directory
// included, in whole seconds. Times after limit are somebody's joke and don't count;
// the zero time says that there is no other. Symlinks are not followed, and however
// deep the tree is, one of its directories is open at a time.
func Newest(ctx context.Context, root *os.File, limit time.Time) (time.Time, error) {
	n := newest{limit: limit.Unix()}
	dir, err := openIn(root, ".", unix.O_DIRECTORY)
	if err != nil {
		return time.Time{}, err
	}
	var levels [][]string // names of directories that are yet to be looked into
	for {
		below, err := n.look(ctx, dir)
		if err != nil {
			dir.Close()
			return time.Time{}, err
		}
		levels = append(levels, below)
		for len(levels) > 0 && len(levels[len(levels)-1]) == 0 {
			if levels = levels[:len(levels)-1]; len(levels) == 0 {
				break
			}
			if dir, err = step(dir, ".."); err != nil {
				return time.Time{}, err
			}
		}
		if len(levels) == 0 {
			dir.Close()
			break
		}
		last := &levels[len(levels)-1]
		next := (*last)[0]
		*last = (*last)[1:]
		if dir, err = step(dir, next); err != nil {
			return time.Time{}, err
		}
	}
	if n.at == 0 {
		return time.Time{}, nil
	}
	return time.Unix(n.at, 0).UTC(), nil
}

// step goes from a directory, which it closes, to one beside it in the tree.
func step(from *os.File, name string) (*os.File, error) {
	defer from.Close()
	return openIn(from, name, unix.O_DIRECTORY)
}

type newest struct{ at, limit int64 } // seconds since 1970

// look takes the times of a directory and of what is in it, and gives the names of the
// directories there.
func (n *newest) look(ctx context.Context, dir *os.File) (below []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir.Name(), err)
	}
	n.take(&st)
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			below = append(below, name)
		} else {
			n.take(&st)
		}
	}
	return below, nil
}

func (n *newest) take(st *unix.Stat_t) {
	if st.Mtim.Sec <= n.limit {
		n.at = max(n.at, st.Mtim.Sec)
	}
}
