package box

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// SetLimits bounds what the running container may take from now on; a bound that is
// zero is lifted. Errors: Conflict when it takes more than that at this moment,
// Unsupported when this host doesn't count what is to be bounded.
func (b *Box) SetLimits(l Limits) error {
	if err := l.check(); err != nil {
		return err
	}
	id := b.state.ID
	set := func(controller, v1, v2, value string, bound bool) error {
		file := v2
		if onV1(controller) {
			file = v1
		}
		return writeLimit(filepath.Join(controllerDir(controller, id), file), value, bound)
	}
	none := "max"
	if onV1("memory") {
		none = "-1"
	}
	memory, soft, swap, processes := none, none, none, "max"
	switch bytes := fmt.Sprint(l.MemoryBytes); {
	case l.MemoryBytes > 0 && l.MemorySoft:
		soft = bytes
	case l.MemoryBytes > 0:
		memory = bytes
	}
	switch {
	case l.NoSwap && onV1("memory"):
		swap = memory // of both together
	case l.NoSwap:
		swap = "0"
	}
	if l.Processes > 0 {
		processes = fmt.Sprint(l.Processes)
	}
	err := errors.Join(
		// Lifted in between: in v1 it can't be less than the limit of memory.
		set("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", none, false),
		set("memory", "memory.limit_in_bytes", "memory.max", memory, memory != none),
		set("memory", "memory.soft_limit_in_bytes", "memory.high", soft, soft != none),
		set("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", swap, swap != none),
		set("cpu", "cpu.shares", "cpu.weight", l.weight(), l.CPUShare > 0),
		set("pids", "pids.max", "pids.max", processes, l.Processes > 0),
		b.setAllowance(l.CPUQuota, l.CPUPeriod),
		b.setCPUs(l.CPUs),
	)
	if !l.KeepDisks {
		err = errors.Join(err, b.setDisks(l.Disks))
	}
	return err
}

// WritesAreBounded reports whether DiskLimit.Write* hold for what is written in the usual way.
// In cgroup v1 the kernel writes the page cache out in nobody's name, so they are only of what
// goes around it (O_DIRECT).
func WritesAreBounded() bool { return !onV1("blkio") }

// setDisks bounds the traffic with block devices. It does it when the container runs, since
// in v1 what a cgroup is bound to isn't for those below it.
func (b *Box) setDisks(limits []DiskLimit) error {
	var errs []error
	if !onV1("blkio") {
		dir := controllerDir("io", b.state.ID)
		for device, l := range toSet(filepath.Join(dir, "io.max"), limits) {
			errs = append(errs, writeLimit(filepath.Join(dir, "io.max"), fmt.Sprintf("%s rbps=%s wbps=%s riops=%s wiops=%s",
				device, orMax(l.ReadBytes), orMax(l.WriteBytes), orMax(l.ReadOperations), orMax(l.WriteOperations)), true))
		}
		return errors.Join(errs...)
	}
	dirs := below(controllerDir("blkio", b.state.ID))
	if len(dirs) == 0 && len(limits) > 0 {
		return kiln.Errorf(kiln.Unsupported, "this host can't bound the traffic of a container's disks")
	}
	for file, of := range map[string]func(DiskLimit) int64{
		"blkio.throttle.read_bps_device":   func(l DiskLimit) int64 { return l.ReadBytes },
		"blkio.throttle.write_bps_device":  func(l DiskLimit) int64 { return l.WriteBytes },
		"blkio.throttle.read_iops_device":  func(l DiskLimit) int64 { return l.ReadOperations },
		"blkio.throttle.write_iops_device": func(l DiskLimit) int64 { return l.WriteOperations },
	} {
		for _, dir := range dirs {
			for device, l := range toSet(filepath.Join(dir, file), limits) {
				n := of(l) // 0 lifts it
				errs = append(errs, writeLimit(filepath.Join(dir, file), fmt.Sprintf("%s %d", device, n), n > 0))
			}
		}
	}
	return errors.Join(errs...)
}

// toSet gives limits by device, and none for the others that a file of a cgroup bounds now.
func toSet(file string, limits []DiskLimit) map[string]DiskLimit {
	all := map[string]DiskLimit{}
	for line := range strings.Lines(readString(file)) {
		if device, _, ok := strings.Cut(line, " "); ok {
			all[device] = DiskLimit{}
		}
	}
	for _, l := range limits {
		all[l.Device] = l
	}
	return all
}

func orMax(n int64) string {
	if n == 0 {
		return "max"
	}
	return fmt.Sprint(n)
}

// attachProcesses is how many processes a command needs to begin: itself, and the one that
// enters the container before it.
const attachProcesses = 2

// fullOfProcesses gives how many processes the container may have, if it can't have those of
// one more command; 0 if it can.
func (b *Box) fullOfProcesses() int64 {
	dir := controllerDir("pids", b.state.ID)
	limit := readInt(filepath.Join(dir, "pids.max")) // "max" is 0
	if readInt(filepath.Join(dir, "pids.current"))+attachProcesses > limit {
		return limit
	}
	return 0
}

// setAllowance bounds the processor time in each period, in microseconds.
func (b *Box) setAllowance(quota, period int64) error {
	dir, bound := controllerDir("cpu", b.state.ID), period > 0
	if !bound {
		period = 100_000 // the kernel's default
	}
	switch {
	case !onV1("cpu") && bound:
		return writeLimit(filepath.Join(dir, "cpu.max"), fmt.Sprintf("%d %d", quota, period), bound)
	case !onV1("cpu"):
		return writeLimit(filepath.Join(dir, "cpu.max"), "max", bound)
	case !bound:
		quota = -1
	}
	// Lifted in between: a new period with the old quota could be refused.
	return errors.Join(
		writeLimit(filepath.Join(dir, "cpu.cfs_quota_us"), "-1", bound),
		writeLimit(filepath.Join(dir, "cpu.cfs_period_us"), fmt.Sprint(period), bound),
		writeLimit(filepath.Join(dir, "cpu.cfs_quota_us"), fmt.Sprint(quota), bound),
	)
}

// setCPUs says which processors the container may use.
func (b *Box) setCPUs(c CPUs) error {
	list, err := cpuset(c)
	if err != nil {
		return err
	}
	dir, bound := controllerDir("cpuset", b.state.ID), list != ""
	if !onV1("cpuset") {
		return writeLimit(filepath.Join(dir, "cpuset.cpus"), list+"\n", bound)
	}
	// In v1 a cgroup must have all that those below it have. So each gets what
	// there is, from the top, and then what it is to have, from the bottom.
	all := readString(filepath.Join(filepath.Dir(dir), "cpuset.cpus"))
	if list == "" {
		list = all
	}
	dirs := below(dir)
	for _, d := range dirs {
		if err := writeLimit(filepath.Join(d, "cpuset.cpus"), all, bound); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(dirs) {
		if err := writeLimit(filepath.Join(d, "cpuset.cpus"), list, bound); err != nil {
			return err
		}
	}
	return nil
}

// writeLimit writes a file of a cgroup. Where the host doesn't have it there is no
// bound to lift, either.
func writeLimit(file, value string, bound bool) error {
	err := os.WriteFile(file, []byte(value), 0)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist) && !bound:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return kiln.Errorf(kiln.Unsupported, "this host can't set %s for a container", filepath.Base(file))
	case errors.Is(err, unix.EBUSY):
		return kiln.Errorf(kiln.Conflict, "%s can't become %s: the container takes more than that now", filepath.Base(file),
			value)
	}
	return kiln.Errorf(kiln.Invalid, "set %s to %s: %w", filepath.Base(file), value, err)
}
