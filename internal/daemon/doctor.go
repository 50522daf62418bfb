package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
)

// A HostFinding is what was found of one thing that instances need, or are better with.
type HostFinding struct {
	Check  string
	State  HostState
	Detail string
	Cure   string // what to do; "" where nothing has to be done
}

// A HostState says how good a finding is.
type HostState string

// Good is as it should be, Weak works with a restriction, Broken doesn't work.
const (
	Good   HostState = "ok"
	Weak   HostState = "weak"
	Broken HostState = "broken"
)

// kernelLimits are those that the host's kernel counts for all containers together, by their
// names in sysctl(8), and how much is enough.
func kernelLimits() map[string]int {
	return map[string]int{"fs.inotify.max_user_instances": 8192, "fs.inotify.max_user_watches": 1 << 20,
		"kernel.keys.maxkeys": 2000}
}

// A KernelLimit is one of kernelLimits that is lower than enough.
type KernelLimit struct {
	Name      string // in sysctl(8)
	Has, Want int
}

// Path is where it is read and set.
func (l KernelLimit) Path() string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(l.Name, ".", "/"))
}

// LowLimits gives those that this host's kernel has, and lower than enough, by name.
func LowLimits(read func(path string) ([]byte, error)) []KernelLimit {
	var low []KernelLimit
	limits := kernelLimits()
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		l := KernelLimit{Name: name, Want: limits[name]}
		b, err := read(l.Path())
		if err != nil {
			continue
		}
		if l.Has, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil && l.Has < l.Want {
			low = append(low, l)
		}
	}
	return low
}

// ExamineHost looks at what instances need of this host. The error is of the database only.
func (d *Daemon) ExamineHost(ctx context.Context) ([]HostFinding, error) {
	list := []HostFinding{examineControllers(box.HasController), examineLXCFS(ctx), d.examineTrees(),
		examineLimits(os.ReadFile), examinePrograms(exec.LookPath), d.examineRoom()}
	if err := d.instances.Profiles.Failure(); err != nil {
		list = append(list, HostFinding{"AppArmor", Weak, "instances take longer to start, each with a profile of its own: " +
			err.Error(), "look at what apparmor_parser says; then restart kiln's daemon"})
	}
	for _, p := range d.Problems() {
		list = append(list, HostFinding{"HTTPS", Broken, p, "see the detail"})
	}
	warnings, err := d.Warnings(ctx, "")
	if err != nil {
		return nil, err
	}
	open := slices.DeleteFunc(warnings, func(w Warning) bool { return w.Status != db.WarningNew })
	f := HostFinding{"warnings", Good, "nothing failed of what the daemon does unasked", ""}
	if len(open) > 0 {
		f = HostFinding{"warnings", Weak, fmt.Sprintf("%d that nobody has acknowledged; the last: %s", len(open),
			open[0].Message), "kiln warning list"} // the newest is first
	}
	return append(list, f), nil
}

// examineControllers tells which limits this host can't set.
func examineControllers(has func(string) bool) HostFinding {
	var lacks []string
	for controller, keys := range map[string]string{"memory": "limits.memory", "cpu": "limits.cpu.allowance",
		"cpuset": "limits.cpu", "pids": "limits.processes", "io": "limits.read and limits.write of disks"} {
		if !has(controller) {
			lacks = append(lacks, fmt.Sprintf("%s (%s)", controller, keys))
		}
	}
	if slices.Sort(lacks); lacks != nil {
		return HostFinding{"cgroups", Weak, "no controller for " + strings.Join(lacks, ", "),
			"mount /sys/fs/cgroup as systemd does; memory may need cgroup_enable=memory in the kernel's command line"}
	}
	return HostFinding{"cgroups", Good, "all limits can be set", ""}
}

func examineLXCFS(ctx context.Context) HostFinding {
	if box.HasLXCFS(ctx) {
		return HostFinding{"lxcfs", Good, "instances that start now see their limits in /proc", ""}
	}
	return HostFinding{"lxcfs", Weak, "it doesn't run: free, top and uptime in an instance show the host's",
		"install and start lxcfs, and restart instances"}
}

func (d *Daemon) examineTrees() HostFinding {
	if d.pool.MountsImages() {
		return HostFinding{"EROFS", Good, "the kernel mounts images as they are stored", ""}
	}
	return HostFinding{"EROFS", Weak, "this kernel has no EROFS: each image is unpacked into a directory, which takes " +
		"longer and more room", "load the module erofs, or use a kernel with CONFIG_EROFS_FS"}
}

// examineLimits compares the limits of the kernel with what many containers need.
func examineLimits(read func(string) ([]byte, error)) HostFinding {
	var low, cures []string
	for _, l := range LowLimits(read) {
		low = append(low, fmt.Sprintf("%s is %d", l.Name, l.Has))
		cures = append(cures, fmt.Sprintf("sysctl -w %s=%d", l.Name, l.Want))
	}
	if low != nil {
		return HostFinding{"limits of the kernel", Weak, "all instances share them, and some 20 systems use them up: " +
			strings.Join(low, ", "), strings.Join(cures, "; ")}
	}
	return HostFinding{"limits of the kernel", Good, "enough for hundreds of instances", ""}
}

// examinePrograms looks for those that kiln calls.
func examinePrograms(look func(string) (string, error)) HostFinding {
	var lacks []string
	for _, p := range []string{"xz (images of most servers)", "sqfs2tar (squashfs images)",
		"tar2sqfs (publishing squashfs images)", "bzip2 (images in bzip2)", "rsync (copies to and from LXD and Incus)"} {
		name, _, _ := strings.Cut(p, " ")
		if _, err := look(name); err != nil {
			lacks = append(lacks, p)
		}
	}
	if lacks != nil {
		return HostFinding{"programs", Weak, "not installed: " + strings.Join(lacks, ", "),
			"install xz-utils, squashfs-tools-ng, bzip2 and rsync"}
	}
	return HostFinding{"programs", Good, "all that kiln calls are installed", ""}
}

// leastRoom is the part of the disk, in percent, below which it is said to be full soon.
const leastRoom = 5

func (d *Daemon) examineRoom() HostFinding {
	st, err := d.PoolUsage()
	free := kiln.FormatSize(int64(st.Bavail) * st.Bsize)
	switch {
	case err != nil:
		return HostFinding{"disk", Broken, err.Error(), "make " + d.cfg.Dir + " readable"}
	case st.Bavail*100 < st.Blocks*leastRoom:
		return HostFinding{"disk", Weak, fmt.Sprintf("%s are free in %s", free, d.cfg.Dir),
			"kiln image prune; kiln admin lost; or more room"}
	case st.Files > 0 && st.Ffree*100 < st.Files*leastRoom:
		return HostFinding{"disk", Weak, fmt.Sprintf("%d more files fit into %s", st.Ffree, d.cfg.Dir),
			"delete instances or snapshots, or move the directory"}
	}
	return HostFinding{"disk", Good, free + " are free", ""}
}
