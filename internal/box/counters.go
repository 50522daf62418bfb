package box

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// Counters are what the kernel counts of a container. What this host doesn't count is nil.
type Counters struct {
	CPU        []CPUTime // of each processor, or one for all where cgroup v2 counts
	CPUs       int       // that it may use; 0: not known
	Memory     *MemoryCounters
	Hugepages  *Hugepages
	Disks      []DiskCounters
	Interfaces []InterfaceCounters
	Processes  int64 // with their threads, where the pids controller counts them
}

// CPUTime is what was spent on a processor since the container was started.
type CPUTime struct {
	CPU          int
	User, System time.Duration
}

// MemoryCounters are what a container has of the memory, in bytes.
type MemoryCounters struct {
	Total     int64 // that it may have: its limit, or what the host has
	Used      int64 // with the cache of files
	Available int64 // without writing to a swap: what is free, and the cache of files

	ActiveAnon, InactiveAnon, ActiveFile, InactiveFile, Unevictable int64 // the lists of the kernel
	Cache, Dirty, Writeback, Mapped, Anon, Shared, Swap             int64

	Kills int64 // processes that were killed for want of memory
}

// Hugepages are those of all sizes, in bytes.
type Hugepages struct{ Total, Used int64 }

// DiskCounters are of a block device, which is "MAJOR:MINOR".
type DiskCounters struct {
	Device                          string
	ReadBytes, WrittenBytes         int64
	ReadsCompleted, WritesCompleted int64
}

// InterfaceCounters are of an interface inside of the container, which has chosen the name.
type InterfaceCounters struct {
	Name           string
	Received, Sent Traffic
}

// Traffic is what went through an interface in one direction.
type Traffic struct{ Bytes, Packets, Errors, Dropped int64 }

// mostInterfaces is how many interfaces of a container are told: whoever is root in it can
// make more.
const mostInterfaces = 64

// maxCounters is how much of a file of counters is read, in bytes.
const maxCounters = 64 << 10

// Counters reads what is counted of the container; host is how much memory there is, in
// bytes. It waits for nothing. The error is Conflict
// when the container doesn't run, or is about to be set up again.
func (b *Box) Counters(host int64) (Counters, error) {
	init, pid, err := b.holdInit()
	if err != nil {
		return Counters{}, err
	}
	defer init.Close()
	if setUp, err := forked(pid); err != nil || setUp { // until then, it is in the host's network
		return Counters{}, kiln.Errorf(kiln.Conflict, "the container doesn't run")
	}
	c := cgroups(cgroupRoot).counters(b.state.ID, host)
	c.Interfaces = interfaceCounters(readFile(fmt.Sprintf("/proc/%d/net/dev", pid)))
	if exited(init.Fd()) { // what was read may be another process's
		return Counters{}, kiln.Errorf(kiln.Conflict, "the container ended")
	}
	return c, nil
}

// dir gives the directory of a container where a controller counts, and whether that is
// cgroup v1.
func (c cgroups) dir(controller, id string) (string, bool) {
	if c.onV1(controller) {
		return filepath.Join(string(c), controller, payloadCgroup, id), true
	}
	v2 := string(c)
	if _, err := os.Stat(filepath.Join(v2, "cgroup.controllers")); err != nil {
		v2 = filepath.Join(v2, "unified")
	}
	return filepath.Join(v2, payloadCgroup, id), false
}

func (c cgroups) counters(id string, host int64) Counters {
	var out Counters
	out.CPU = c.cpuTime(id)
	if dir, v1 := c.dir("cpuset", id); v1 {
		out.CPUs = countCPUs(readFile(filepath.Join(dir, "cpuset.effective_cpus")))
	} else {
		out.CPUs = countCPUs(readFile(filepath.Join(dir, "cpuset.cpus.effective")))
	}
	if out.CPUs == 0 {
		var online unix.CPUSet
		if unix.SchedGetaffinity(0, &online) == nil {
			out.CPUs = online.Count()
		}
	}
	out.Memory = c.memory(id, host)
	out.Hugepages = c.hugepages(id)
	out.Disks = c.disks(id)
	dir, _ := c.dir("pids", id)
	if n, err := strconv.ParseInt(strings.TrimSpace(readFile(filepath.Join(dir, "pids.current"))), 10, 64); err == nil {
		out.Processes = n
	} else {
		out.Processes = int64(len(inside(id)))
	}
	return out
}

func (c cgroups) cpuTime(id string) []CPUTime {
	dir, v1 := c.dir("cpuacct", id)
	if !v1 {
		dir, _ = c.dir("cpu", id)
		stat := keys(readFile(filepath.Join(dir, "cpu.stat")))
		if stat == nil {
			return nil
		}
		return []CPUTime{{0, time.Duration(stat["user_usec"]) * time.Microsecond,
			time.Duration(stat["system_usec"]) * time.Microsecond}}
	}
	var list []CPUTime
	for line := range strings.Lines(readFile(filepath.Join(dir, "cpuacct.usage_all"))) { // after "cpu user system"
		f := strings.Fields(line)
		if n, ok := numbers(f); ok && len(n) == 3 {
			list = append(list, CPUTime{int(n[0]), time.Duration(n[1]), time.Duration(n[2])})
		}
	}
	return list
}

// memory reads memory.stat, which has the same under other names in both versions.
func (c cgroups) memory(id string, host int64) *MemoryCounters {
	dir, v1 := c.dir("memory", id)
	stat := keys(readFile(filepath.Join(dir, "memory.stat")))
	if stat == nil {
		return nil
	}
	m := &MemoryCounters{}
	limit := int64(0)
	if v1 {
		m.Used, limit = readInt(filepath.Join(dir, "memory.usage_in_bytes")), stat["hierarchical_memory_limit"]
		m.ActiveAnon, m.InactiveAnon = stat["total_active_anon"], stat["total_inactive_anon"]
		m.ActiveFile, m.InactiveFile = stat["total_active_file"], stat["total_inactive_file"]
		m.Unevictable, m.Cache, m.Dirty = stat["total_unevictable"], stat["total_cache"], stat["total_dirty"]
		m.Writeback, m.Mapped, m.Anon = stat["total_writeback"], stat["total_mapped_file"], stat["total_rss"]
		m.Shared, m.Swap = stat["total_shmem"], stat["total_swap"]
		m.Kills = keys(readFile(filepath.Join(dir, "memory.oom_control")))["oom_kill"]
	} else {
		m.Used, limit = readInt(filepath.Join(dir, "memory.current")), readInt(filepath.Join(dir, "memory.max")) // "max": 0
		m.ActiveAnon, m.InactiveAnon = stat["active_anon"], stat["inactive_anon"]
		m.ActiveFile, m.InactiveFile = stat["active_file"], stat["inactive_file"]
		m.Unevictable, m.Cache, m.Dirty = stat["unevictable"], stat["file"], stat["file_dirty"]
		m.Writeback, m.Mapped, m.Anon, m.Shared = stat["file_writeback"], stat["file_mapped"], stat["anon"], stat["shmem"]
		m.Swap = readInt(filepath.Join(dir, "memory.swap.current"))
		m.Kills = keys(readFile(filepath.Join(dir, "memory.events")))["oom_kill"]
	}
	m.Total = host
	if limit > 0 && (limit < m.Total || m.Total == 0) {
		m.Total = limit
	}
	m.Available = min(m.Total, max(0, m.Total-m.Used)+m.ActiveFile+m.InactiveFile)
	return m
}

func (c cgroups) hugepages(id string) *Hugepages {
	dir, v1 := c.dir("hugetlb", id)
	usage, limit := ".current", ".max"
	if v1 {
		usage, limit = ".usage_in_bytes", ".limit_in_bytes"
	}
	files, err := filepath.Glob(filepath.Join(dir, "hugetlb.*B"+usage)) // and not hugetlb.2MB.rsvd.…
	if err != nil || len(files) == 0 {
		return nil
	}
	h := &Hugepages{}
	for _, f := range files {
		h.Used += readInt(f)
		most := readInt(strings.TrimSuffix(f, usage) + limit)
		if most < 1<<62 { // else there is no limit
			h.Total += most
		}
	}
	return h
}

func (c cgroups) disks(id string) []DiskCounters {
	dir, v1 := c.dir("blkio", id)
	if !v1 {
		dir, _ = c.dir("io", id)
		var list []DiskCounters
		for line := range strings.Lines(readFile(filepath.Join(dir, "io.stat"))) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			d := DiskCounters{Device: f[0]}
			for _, w := range f[1:] {
				key, value, _ := strings.Cut(w, "=")
				n, _ := strconv.ParseInt(value, 10, 64)
				switch key {
				case "rbytes":
					d.ReadBytes = n
				case "wbytes":
					d.WrittenBytes = n
				case "rios":
					d.ReadsCompleted = n
				case "wios":
					d.WritesCompleted = n
				}
			}
			list = append(list, d)
		}
		return list
	}
	var list []DiskCounters
	of := func(device string) *DiskCounters {
		for i := range list {
			if list[i].Device == device {
				return &list[i]
			}
		}
		list = append(list, DiskCounters{Device: device})
		return &list[len(list)-1]
	}
	for _, file := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"} {
		for line := range strings.Lines(readFile(filepath.Join(dir, file))) { // "8:0 Read 4096"
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			n, _ := strconv.ParseInt(f[2], 10, 64)
			d, bytes := of(f[0]), strings.Contains(file, "bytes")
			switch {
			case f[1] == "Read" && bytes:
				d.ReadBytes = n
			case f[1] == "Write" && bytes:
				d.WrittenBytes = n
			case f[1] == "Read":
				d.ReadsCompleted = n
			case f[1] == "Write":
				d.WritesCompleted = n
			}
		}
	}
	return list
}

// interfaceCounters reads proc_pid_net_dev(5).
func interfaceCounters(dev string) []InterfaceCounters {
	var list []InterfaceCounters
	for line := range strings.Lines(dev) {
		name, rest, ok := strings.Cut(line, ":")
		n, isNumbers := numbers(strings.Fields(rest))
		if !ok || !isNumbers || len(n) < 16 {
			continue // the heading
		}
		if len(list) == mostInterfaces {
			break
		}
		traffic := func(n []int64) Traffic { return Traffic{n[0], n[1], n[2], n[3]} }
		list = append(list, InterfaceCounters{strings.ToValidUTF8(strings.TrimSpace(name), "�"), traffic(n), traffic(n[8:])})
	}
	return list
}

// readFile gives the beginning of a file; "" if it can't be read.
func readFile(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCounters))
	if err != nil {
		return ""
	}
	return string(b)
}

// keys reads lines of "key number"; nil when there are none.
func keys(text string) map[string]int64 {
	if text == "" {
		return nil
	}
	m := make(map[string]int64, 64)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			m[key] = n
		}
	}
	return m
}

// numbers reads words that all are numbers.
func numbers(words []string) ([]int64, bool) {
	list := make([]int64, 0, len(words))
	for _, w := range words {
		n, err := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return nil, false
		}
		list = append(list, n)
	}
	return list, len(list) > 0
}

// countCPUs counts the processors of a list such as "0-3,7".
func countCPUs(list string) int {
	count := 0
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, ok := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		b := a
		if ok && err == nil {
			b, err = strconv.Atoi(last)
		}
		if err == nil && b >= a {
			count += b - a + 1
		}
	}
	return count
}
