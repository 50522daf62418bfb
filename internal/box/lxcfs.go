package box

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/singleflight"
)

// lxcfsDir is where lxcfs(1) has its file system: files of /proc and /sys that tell of a
// container's limits instead of the host, for free(1), top(1), and programs that choose by
// that how much they take.
var lxcfsDir = "/var/lib/lxcfs"

// lxcfsTime is how long lxcfs may take to say which files it has. It is a process of its own,
// and nothing of a container's may wait for that one.
const lxcfsTime = time.Second

// lxcfsLooks lets all who start containers wait for the same look.
var lxcfsLooks singleflight.Group

// HasLXCFS reports whether containers that start now see their limits in /proc.
func HasLXCFS(ctx context.Context) bool { return len(lxcfsFiles(ctx)) > 0 }

// lxcfsFiles are the paths below lxcfsDir that are shown to containers, at the same place
// below /; none if lxcfs isn't there or doesn't answer.
func lxcfsFiles(ctx context.Context) []string {
	there := false
	_ = eachMount("/proc/self/mountinfo", func(m mountLine) bool { // a look at the directory may never end
		there = m.point == lxcfsDir && m.fsType == "fuse.lxcfs"
		return !there
	})
	if !there {
		return nil
	}
	dir := lxcfsDir
	found := lxcfsLooks.DoChan(dir, func() (any, error) {
		return lxcfsFilesIn(dir), nil
	})
	ctx, cancel := context.WithTimeout(ctx, lxcfsTime)
	defer cancel()
	select {
	case r := <-found:
		return r.Val.([]string)
	case <-ctx.Done():
		return nil
	}
}

// lxcfsFilesIn are those below a directory. Of /proc, directories stay the container's own.
func lxcfsFilesIn(dir string) (files []string) {
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, filepath.Join("proc", e.Name()))
		}
	}
	const cpus = "sys/devices/system/cpu"
	if _, missing := os.Stat(filepath.Join(dir, cpus)); err == nil && missing == nil {
		files = append(files, cpus)
	}
	return files
}
