package box

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// seccompPolicy refuses the system calls that have no business in a container,
// for the native and the compatible ABIs, in liblxc's version 2 format.
//
//go:embed seccomp.conf
var seccompPolicy string

// DefaultPolicy gives the policy of containers that have no other. More lines may follow.
func DefaultPolicy() string { return seccompPolicy }

// NoPolicy begins one that refuses nothing but to unmount what liblxc has mounted.
const NoPolicy = "2\ndenylist\nreject_force_umount\n"

// A config is lines of lxc.container.conf(5).
type config struct{ strings.Builder }

func (c *config) set(key, format string, args ...any) {
	fmt.Fprintf(c, "%s = %s\n", key, fmt.Sprintf(format, args...))
}

// entry adds a mount in the form of fstab(5).
func (c *config) entry(source, target, fstype, options string) {
	c.set("lxc.mount.entry", "%s %s %s %s 0 0", escape(source), escape(strings.TrimPrefix(target, "/")), fstype, options)
}

func escape(path string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(path)
}

func writeConfig(s Spec, kinds string, halt int, lxcfs []string) error {
	var c config
	label, err := apparmorLabel(s)
	if err != nil {
		return err
	}
	c.set("lxc.log.file", "%s", filepath.Join(linkTo(s.ID), logFile))
	c.set("lxc.log.level", "warn")
	c.set("lxc.uts.name", "%s", s.Hostname)
	c.set("lxc.rootfs.path", "dir:%s", rootfsDir)
	c.set("lxc.rootfs.mount", "%s", pivotDir)
	if s.Init != "" {
		c.set("lxc.init.cmd", "%s", s.Init)
	}
	c.set("lxc.arch", "%s", s.Arch)
	c.set("lxc.signal.halt", "%d", halt)
	c.set("lxc.signal.reboot", "SIGINT")
	c.set("lxc.monitor.signal.pdeath", "0") // an instance outlives its monitor
	// See cgroup.c. The parent of the shell that liblxc runs it by is the monitor, whatever became of its file.
	c.set("lxc.hook.stop", "/proc/$PPID/exe")
	c.set("lxc.tty.max", "0")
	c.set("lxc.pty.max", "1024")
	c.set("lxc.console.logfile", "%s", filepath.Join(linkTo(s.ID), consoleFile))
	c.set("lxc.console.buffer.size", "128kB")
	c.set("lxc.console.size", "1MB")
	c.set("lxc.console.rotate", "1")
	c.nics(s.Nics)
	c.identity(s)
	c.apparmor(s, label)
	c.mounts(s, kinds)
	for _, file := range lxcfs {
		c.entry(filepath.Join(lxcfsDir, file), file, "none", "bind,optional")
	}
	if err := c.cgroups(s); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		if strings.ContainsAny(k+s.Env[k], "\n\x00") {
			return kiln.Errorf(kiln.Invalid, "environment variable %q has a newline", k)
		}
		c.set("lxc.environment", "%s=%s", k, s.Env[k])
	}
	for _, line := range s.Config {
		c.WriteString(line + "\n")
	}
	policy := []byte(orElse(s.Seccomp, seccompPolicy))
	if err := disk.WriteUnsynced(filepath.Join(s.Dir, seccompFile), 0o600, policy); err != nil {
		return err
	}
	return errors.Join(disk.WriteUnsynced(filepath.Join(s.Dir, configFile), 0o600, []byte(c.String())),
		setLink(s.ID, s.Dir))
}

// identity sets who the container is to the host and what it may not do.
func (c *config) identity(s Spec) {
	for _, m := range s.IDMap {
		c.set("lxc.idmap", "u %d %d %d", m.Container, m.Host, m.Size)
		c.set("lxc.idmap", "g %d %d %d", m.Container, m.Host, m.Size)
	}
	if len(s.IDMap) == 0 {
		c.set("lxc.cap.drop", "mac_admin mac_override sys_time sys_module sys_rawio")
	} else {
		// No user namespace can load modules. Who sees the capability tries
		// anyway, and a unit of systemd fails where libkmod isn't installed.
		c.set("lxc.cap.drop", "sys_module")
	}
	c.set("lxc.seccomp.profile", "%s", filepath.Join(linkTo(s.ID), seccompFile))
}

// apparmorLabel gives the label of a container that has one of kiln's profiles, with a namespace
// that is there; "": liblxc makes a profile for it, as for those that have ids of the host, or
// rules of their own.
func apparmorLabel(s Spec) (string, error) {
	own := slices.ContainsFunc(s.Config, func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "lxc.apparmor.")
	})
	if s.Profile == "" || len(s.IDMap) == 0 || own {
		return "", nil
	}
	return confine(s.ID, s.Profile)
}

func (c *config) apparmor(s Spec, label string) {
	switch {
	case label != "":
		c.set("lxc.apparmor.profile", "%s", label)
		return
	case !apparmorOn():
		return
	}
	c.set("lxc.apparmor.profile", "generated")
	if len(s.IDMap) > 0 {
		// Units of systemd have mounts of their own, also of proc, which liblxc's rules
		// refuse: then logind doesn't start. In a user namespace the kernel knows what is safe.
		for _, rule := range []string{"mount,", "umount,", "pivot_root,"} {
			c.set("lxc.apparmor.raw", "%s", rule)
		}
	}
	if s.Nesting {
		c.set("lxc.apparmor.allow_nesting", "1")
	}
}

func (c *config) mounts(s Spec, kinds string) {
	c.set("lxc.autodev", "1")
	proc, sys := "proc:rw", "sys:rw"
	if len(s.IDMap) == 0 {
		proc, sys = "proc:mixed", "sys:mixed"
	}
	c.set("lxc.mount.auto", "%s %s", proc, sys)
	// A container sees cgroup v2 on every host: systemd needs a tree that it
	// can write, not controllers.
	c.entry("cgroup2", "sys/fs/cgroup", "cgroup2", "rw,nosuid,nodev,noexec,relatime,create=dir")
	c.entry("mqueue", "dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime,create=dir,optional")
	for _, dev := range []string{"/dev/fuse", "/dev/net/tun"} {
		c.entry(dev, dev, "none", "bind,create=file,optional")
	}
	// systemd has mount units for these, which fail in a user namespace
	// unless something is mounted there already.
	for _, dir := range []string{
		"/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing", "/sys/kernel/config",
		"/sys/fs/pstore", "/sys/fs/bpf", "/sys/fs/fuse/connections",
	} {
		if _, err := os.Stat(dir); err == nil {
			c.entry(dir, dir, "none", "rbind,optional")
		}
	}
	if s.Nesting {
		// Inner containers may mount proc and sysfs only where an unmasked
		// one is visible.
		c.entry("proc", "dev/.lxc/proc", "proc", "create=dir,optional")
		c.entry("sys", "dev/.lxc/sys", "sysfs", "create=dir,optional")
	}
	for i, m := range s.Mounts {
		staged := filepath.Join(mountsDir, strconv.Itoa(i))
		options := "rbind,create=dir"
		if kinds[i] == 'f' {
			options = "bind,create=file"
		}
		c.entry(staged, m.Target, "none", options)
	}
}

// devices are the device nodes that a container may use, as in lxc.cgroup.devices.
var devices = []string{
	"c *:* m", "b *:* m", // make, not open
	"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", // null zero full random urandom
	"c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", // tty console ptmx pts
	"c 10:229 rwm", "c 10:200 rwm", // fuse net/tun
}

// weight is the container's share of busy processors, in the numbers of the host's cgroups.
func (l Limits) weight() string {
	usual, least := 100, 1
	if onV1("cpu") {
		usual, least = 1024, 2
	}
	if l.CPUShare == 0 {
		return fmt.Sprint(usual)
	}
	return fmt.Sprint(max(least, usual*l.CPUShare/100))
}

// cgroups puts the container below kiln's own cgroups: the limits are set on a
// cgroup above the one that is the root of what the container sees.
func (c *config) cgroups(s Spec) error {
	c.set("lxc.cgroup.dir.monitor", "%s/%s", monitorCgroup, s.ID)
	c.set("lxc.cgroup.dir.monitor.pivot", "%s", pivotCgroup)
	c.set("lxc.cgroup.dir.container", "%s/%s", payloadCgroup, s.ID)
	c.set("lxc.cgroup.dir.container.inner", "ns")
	limit := func(controller, v1, v2, value string) {
		if onV1(controller) {
			c.set("lxc.cgroup."+v1, "%s", value)
		} else {
			c.set("lxc.cgroup2."+v2, "%s", value)
		}
	}
	limit("devices", "devices.deny", "devices.deny", "a")
	for _, d := range devices {
		limit("devices", "devices.allow", "devices.allow", d)
	}
	for _, d := range s.Devices {
		limit("devices", "devices.allow", "devices.allow", d.String())
	}
	l := s.Limits
	if err := l.check(); err != nil {
		return err
	}
	switch bytes := fmt.Sprint(l.MemoryBytes); {
	case l.MemoryBytes > 0 && l.MemorySoft:
		limit("memory", "memory.soft_limit_in_bytes", "memory.high", bytes)
	case l.MemoryBytes > 0:
		limit("memory", "memory.limit_in_bytes", "memory.max", bytes)
	}
	switch {
	case l.NoSwap && onV1("memory"):
		c.set("lxc.cgroup.memory.memsw.limit_in_bytes", "%d", l.MemoryBytes)
	case l.NoSwap:
		c.set("lxc.cgroup2.memory.swap.max", "0")
	}
	if l.CPUShare > 0 {
		limit("cpu", "cpu.shares", "cpu.weight", l.weight())
	}
	if l.Processes > 0 {
		limit("pids", "pids.max", "pids.max", fmt.Sprint(l.Processes))
	}
	if l.CPUPeriod > 0 {
		if onV1("cpu") {
			c.set("lxc.cgroup.cpu.cfs_period_us", "%d", l.CPUPeriod)
			c.set("lxc.cgroup.cpu.cfs_quota_us", "%d", l.CPUQuota)
		} else {
			c.set("lxc.cgroup2.cpu.max", "%d %d", l.CPUQuota, l.CPUPeriod)
		}
	}
	set, err := cpuset(l.CPUs)
	if err == nil && set != "" {
		limit("cpuset", "cpuset.cpus", "cpuset.cpus", set)
	}
	return err
}
