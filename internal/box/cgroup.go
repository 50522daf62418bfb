package box

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// kiln's cgroups in every hierarchy, each with one directory per container.
const (
	payloadCgroup = "kiln.payload"
	monitorCgroup = "kiln.monitor"
	pivotCgroup   = "kiln.pivot"
)

const cgroupRoot = "/sys/fs/cgroup"

// unified gives the mount point of cgroup v2: the root on hosts that have only
// it, a directory of the root on hybrid ones.
func unified() string {
	var st unix.Statfs_t
	if unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return cgroupRoot
	}
	return filepath.Join(cgroupRoot, "unified")
}

// seesCgroups reports whether the hierarchy of cgroup v2 is where it is looked for.
func seesCgroups() bool {
	var st unix.Statfs_t
	return unix.Statfs(unified(), &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroups is where the hierarchies of cgroups are.
type cgroups string

// onV1 reports whether a controller is in a hierarchy of cgroup v1.
func (c cgroups) onV1(controller string) bool {
	_, err := os.Stat(filepath.Join(string(c), controller, "cgroup.clone_children"))
	return err == nil
}

func onV1(controller string) bool { return cgroups(cgroupRoot).onV1(controller) }

// HasController reports whether this host counts for containers what a controller of cgroup v2
// counts: "memory", "cpu", "cpuset", "pids", "io".
func HasController(name string) bool {
	v1 := map[string]string{"io": "blkio"}
	return onV1(cmp.Or(v1[name], name)) ||
		slices.Contains(strings.Fields(readString(filepath.Join(unified(), "cgroup.controllers"))), name)
}

// hierarchies gives the mount points of all cgroup hierarchies, each once.
func hierarchies() []string {
	list := []string{unified()}
	if list[0] == cgroupRoot {
		return list
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "unified" {
			list = append(list, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return list
}

// controllerDir gives the directory of a container where a controller counts.
func controllerDir(controller, id string) string {
	if onV1(controller) {
		return filepath.Join(cgroupRoot, controller, payloadCgroup, id)
	}
	return filepath.Join(unified(), payloadCgroup, id)
}

// inside gives the processes of a container, by its v2 cgroup.
func inside(id string) []int { return members(payloadCgroup, id) }

// Processes gives the processes that run on this host under a container's ID, also
// when nobody knows of a container.
func Processes(id string) []int {
	if id == "" {
		return nil
	}
	return inside(id)
}

// members gives the processes of a v2 cgroup of a container, and of those below.
func members(top, id string) []int {
	var pids []int
	filepath.WalkDir(filepath.Join(unified(), top, id), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // it vanishes while it is walked, or isn't there
		}
		procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, f := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// clean removes what a container leaves behind: processes of one whose monitor
// died, a monitor whose daemon did, cgroups, liblxc's lock, its namespace of AppArmor, and the
// record of what ran.
func clean(dir, id string) error {
	for range 200 {
		pids := append(inside(id), members(monitorCgroup, id)...)
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // found in the container's own cgroup a moment ago
		}
		time.Sleep(5 * time.Millisecond)
	}
	var errs []error
	for _, h := range hierarchies() {
		for _, top := range []string{payloadCgroup, monitorCgroup} {
			errs = append(errs, removeCgroup(filepath.Join(h, top, id)))
		}
	}
	_ = os.RemoveAll(linkTo(id)) // what is left of it leads nowhere
	removeTops()
	removeLock(id)
	release(id)
	if err := os.Remove(filepath.Join(dir, stateFile)); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lockTops locks the cgroups that all containers share: a container that is being
// started is about to make its own in them (unix.LOCK_SH), and nobody may be when
// they are removed (unix.LOCK_EX).
func lockTops(how int) (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(runDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeTops removes the shared cgroups if they are empty, and no container starts or runs:
// one that does may reboot by itself at any time, and its monitor makes cgroups in them.
func removeTops() {
	f, err := lockTops(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil {
		return // the next container that ends does it
	}
	defer f.Close()
	if linked() {
		return
	}
	for _, h := range hierarchies() {
		// liblxc's monitors pass through its pivot on their way out.
		for _, top := range []string{payloadCgroup, monitorCgroup, pivotCgroup + "/lxc.pivot", pivotCgroup} {
			_ = unix.Rmdir(filepath.Join(h, top)) // stays while others use it
		}
	}
}

// linked reports whether a link leads to a box that runs, of any daemon.
func linked() bool {
	links, err := os.ReadDir(linksDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return slices.ContainsFunc(links, func(l fs.DirEntry) bool {
		_, err := os.Stat(filepath.Join(linkTo(l.Name()), stateFile))
		return err == nil
	})
}

// below gives a cgroup and those below it, each after the one that it is in.
func below(dir string) []string {
	var dirs []string
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // it vanishes while it is walked, or isn't there
	})
	return dirs
}

// removeCgroup removes a cgroup and those below. The kernel is done with a
// cgroup a moment after its last process.
func removeCgroup(dir string) error {
	var err error
	for range 100 {
		err = nil
		for _, d := range slices.Backward(below(dir)) {
			if e := unix.Rmdir(d); e != nil && e != unix.ENOENT {
				err = fmt.Errorf("remove cgroup %s: %w", d, e)
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// removeLock removes the file that liblxc locks a container by. The directories
// above stay: another container may be about to make its own file there.
func removeLock(id string) { _ = os.Remove(filepath.Join("/run/lxc/lock", runDir, "."+id)) }

// cpuset turns a number of processors into a list, spread so that containers
// don't all get the first ones.
func cpuset(c CPUs) (string, error) {
	if c.Set != "" || c.Count == 0 {
		return c.Set, nil
	}
	var online unix.CPUSet
	if err := unix.SchedGetaffinity(0, &online); err != nil {
		return "", err
	}
	var all []string
	for cpu := 0; len(all) < online.Count(); cpu++ {
		if online.IsSet(cpu) {
			all = append(all, strconv.Itoa(cpu))
		}
	}
	if c.Count >= len(all) {
		return "", nil
	}
	first := int(time.Now().UnixNano()) % len(all)
	var list []string
	for i := range c.Count {
		list = append(list, all[(first+i)%len(all)])
	}
	return strings.Join(list, ","), nil
}

// Freeze stops every process of the container where it is. It returns when they are frozen,
// or with what ended ctx: it says which of them wait in the kernel, where nothing stops them.
// Errors: Conflict when the container is gone, Unsupported.
func (b *Box) Freeze(ctx context.Context) error {
	err := b.freeze(ctx, "1")
	if err == nil || ctx.Err() == nil {
		return err
	}
	if late := waiting(inside(b.state.ID)); len(late) > 0 {
		err = kiln.Errorf(kiln.KindOf(err), "%w (%s)", err, stuck(late))
	}
	return err
}

// Thaw lets a frozen container go on. One that is gone has no need of that.
func (b *Box) Thaw(ctx context.Context) error {
	if err := b.freeze(ctx, "0"); !errors.Is(err, kiln.Conflict) {
		return err
	}
	return nil
}

func (b *Box) freeze(ctx context.Context, want string) error {
	dir := filepath.Join(unified(), payloadCgroup, b.state.ID)
	err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(want), 0)
	for err != nil || keyed(filepath.Join(dir, "cgroup.events"), "frozen") != want {
		_, there := os.Stat(dir)
		if errors.Is(there, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // it was removed before it was written to
			if !seesCgroups() {
				return kiln.Errorf(kiln.Unsupported, "processes can't be paused: the daemon doesn't see the host's cgroups in %s, "+
					"as under \"ip netns exec\", which mounts another /sys; start it where they are, as with \"nsenter --net=FILE\"",
					cgroupRoot)
			}
			return kiln.Errorf(kiln.Conflict, "the container doesn't run any more")
		}
		if err != nil {
			return kiln.Errorf(kiln.Unsupported, "freeze container: %w", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// Frozen reports whether the container is frozen.
func (b *Box) Frozen() bool {
	dir := filepath.Join(unified(), payloadCgroup, b.state.ID)
	return readString(filepath.Join(dir, "cgroup.freeze")) == "1"
}

// A Usage is what a container takes at one moment.
type Usage struct {
	MemoryBytes, MemoryPeakBytes int64
	SwapBytes                    int64
	CPUNanoseconds               int64 // since it started
	Processes                    int64
}

// Usage reads the container's counters. What this host doesn't count is 0.
func (b *Box) Usage() (Usage, error) {
	id := b.state.ID
	pids := inside(id)
	if len(pids) == 0 {
		return Usage{}, kiln.Errorf(kiln.NotFound, "container %s doesn't run", id)
	}
	u := Usage{Processes: int64(len(pids))}
	if dir := controllerDir("memory", id); onV1("memory") {
		u.MemoryBytes = readInt(filepath.Join(dir, "memory.usage_in_bytes"))
		u.MemoryPeakBytes = readInt(filepath.Join(dir, "memory.max_usage_in_bytes"))
		if with := readInt(filepath.Join(dir, "memory.memsw.usage_in_bytes")); with > 0 {
			u.SwapBytes = max(0, with-u.MemoryBytes)
		}
	} else {
		u.MemoryBytes = readInt(filepath.Join(dir, "memory.current"))
		u.MemoryPeakBytes = readInt(filepath.Join(dir, "memory.peak"))
		u.SwapBytes = readInt(filepath.Join(dir, "memory.swap.current"))
	}
	if onV1("cpuacct") {
		u.CPUNanoseconds = readInt(filepath.Join(controllerDir("cpuacct", id), "cpuacct.usage"))
	} else {
		usec, _ := strconv.ParseInt(keyed(filepath.Join(controllerDir("cpu", id), "cpu.stat"), "usage_usec"), 10, 64)
		u.CPUNanoseconds = usec * 1000
	}
	return u, nil
}

func readString(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func readInt(path string) int64 {
	n, _ := strconv.ParseInt(readString(path), 10, 64)
	return n
}

// keyed reads the value of a key from a file of "key value" lines.
func keyed(path, key string) string {
	for line := range strings.Lines(readString(path)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			return f[1]
		}
	}
	return ""
}
