package soak

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

// remember keeps the ids of everything on a machine that is or was an instance: cgroups
// and processes have them.
func (n *node) remember() {
	for _, dir := range []string{"boxes", "volumes/volumes"} {
		for _, name := range entries(filepath.Join(n.Dir, dir)) {
			n.ids[name] = true
		}
	}
	for _, name := range entries(filepath.Join(n.Dir, "volumes/lost")) {
		n.ids[name[strings.LastIndex(name, ".")+1:]] = true
	}
}

// entries are the names in a directory; none if it isn't there.
func entries(dir string) []string {
	list, _ := os.ReadDir(dir)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// checkLeaks looks for what belongs to no instance.
func (s *soak) checkLeaks(n *node) {
	s.t.Helper()
	n.remember()
	var left []string
	if !s.eventually(func() bool {
		var err error
		left, err = s.leaks(n)
		return err == nil && len(left) == 0
	}) {
		s.violation("left over on %s: %s", n.name, strings.Join(left, ", "))
	}
}

func (s *soak) leaks(n *node) (left []string, err error) {
	list, err := client.List[api.InstanceFull](s.t.Context(), n.Client(), "/1.0/instances", 2)
	if err != nil {
		return nil, err
	}
	ids, runs, snapshots := map[string]bool{}, map[string]bool{}, 0
	for _, i := range list {
		id := i.Config["volatile.uuid"]
		n.ids[id], ids[id] = true, true
		runs[id] = i.Status == "Running"
		snapshots += len(i.Snapshots)
	}
	for _, dir := range []string{"volumes/volumes", "boxes"} {
		for _, name := range entries(filepath.Join(n.Dir, dir)) {
			if !ids[name] {
				left = append(left, dir+"/"+name)
			}
		}
	}
	if have := len(entries(filepath.Join(n.Dir, "volumes/snapshots"))); have != snapshots {
		left = append(left, fmt.Sprintf("volumes/snapshots has %d snapshots of %d", have, snapshots))
	}
	for _, dir := range []string{"volumes/tmp", "volumes/mnt", "blobs/tmp", "deltas/tmp"} {
		for _, name := range entries(filepath.Join(n.Dir, dir)) {
			left = append(left, dir+"/"+name)
		}
	}
	for _, path := range cgroups() {
		if id := filepath.Base(path); n.ids[id] && !runs[id] {
			left = append(left, path)
		}
	}
	for _, p := range processes(n.Dir) {
		if id := filepath.Base(cgroupOf(p.pid)); p.pid != n.PID() && !runs[id] {
			left = append(left, fmt.Sprintf("process %d %s", p.pid, p.line))
		}
	}
	return append(left, mounts(n.Dir)...), nil
}

// checkTrees looks for files of images and layers where there are no instances. What
// was put away may still stand on some.
func (s *soak) checkTrees(n *node) {
	s.t.Helper()
	if len(entries(filepath.Join(n.Dir, "volumes/lost"))) > 0 {
		return
	}
	var left []string
	if !s.eventually(func() bool {
		left = nil
		for _, dir := range []string{"volumes/layers", "volumes/images"} {
			for _, name := range entries(filepath.Join(n.Dir, dir)) {
				left = append(left, dir+"/"+name)
			}
		}
		return len(left) == 0
	}) {
		s.violation("left over on %s: %v", n.name, left)
	}
}

// lost counts what no row named after a kill.
func (s *soak) lost() (count int) {
	for _, n := range s.nodes {
		count += len(entries(filepath.Join(n.Dir, "volumes/lost")))
	}
	return count
}

// attached are the mounts and loop devices of files below a directory.
func attached(dir string) []string {
	left := mounts(dir)
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // no bad pattern
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), dir+"/") {
			left = append(left, strings.TrimSpace(string(b)))
		}
	}
	for _, p := range processes(dir) {
		left = append(left, fmt.Sprintf("process %d %s", p.pid, p.line))
	}
	return left
}

// mounts are those below a directory that this process sees.
func mounts(dir string) (left []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			left = append(left, "mount "+f[4])
		}
	}
	return left
}

// cgroups are the directories of containers in every hierarchy, which begin at the
// daemon's own cgroup where that isn't the root.
func cgroups() (list []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		switch parent := filepath.Base(filepath.Dir(path)); {
		case err != nil || !e.IsDir():
			return nil // some go while they are looked at
		case strings.HasPrefix(parent, "kiln."):
			list = append(list, path)
			return fs.SkipDir
		}
		return nil
	})
	return list
}

// cgroupOf is the cgroup of a process, in the hierarchy that is last in the list; "":
// it is gone.
func cgroupOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	_, path, _ := strings.Cut(strings.TrimPrefix(lines[len(lines)-1], "0::"), ":/")
	if path == "" {
		path = strings.TrimPrefix(lines[len(lines)-1], "0::")
	}
	return path
}

// A process is one of a machine.
type process struct {
	pid  int
	line string
}

// processes are those that were started on a machine, or name its directory.
func processes(dir string) (list []process) {
	for _, name := range entries("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		env, _ := os.ReadFile("/proc/" + name + "/environ") // it may be gone
		line, _ := os.ReadFile("/proc/" + name + "/cmdline")
		if strings.Contains(string(env), "KILN_DIR="+dir+"\x00") || strings.Contains(string(line), dir) {
			list = append(list, process{pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))})
		}
	}
	return list
}
