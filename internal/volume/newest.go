package volume

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// LastChange tells when the last of a snapshot's files was changed, directories
// included, in whole seconds. Times after limit are somebody's joke and don't count;
// the zero time says that there is no other.
func (s *Snapshot) LastChange(ctx context.Context, limit time.Time) (time.Time, error) {
	tree, err := s.Mount(ctx, nil)
	if err != nil {
		return time.Time{}, err
	}
	defer tree.Close()
	c, err := openCursor(fmt.Sprintf("/proc/self/fd/%d/.", tree.Fd()))
	if err != nil {
		return time.Time{}, err
	}
	defer c.Close()
	return newest(ctx, c, limit)
}

func newest(ctx context.Context, c *cursor, limit time.Time) (time.Time, error) {
	var at int64 // seconds since 1970
	take := func(_ string, st *unix.Stat_t) error {
		if st.Mtim.Sec <= limit.Unix() {
			at = max(at, st.Mtim.Sec)
		}
		return nil
	}
	root, err := c.lstat(".")
	if err != nil {
		return time.Time{}, err
	}
	_ = take(".", &root) // never fails
	if err := c.walk(ctx, take); err != nil || at == 0 {
		return time.Time{}, err
	}
	return time.Unix(at, 0).UTC(), nil
}
