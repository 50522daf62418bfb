package box

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

// hierarchy writes files below a directory that stands for /sys/fs/cgroup.
func hierarchy(t *testing.T, files map[string]string) cgroups {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cgroups(root)
}

// TestCountersOfBothVersions reads the same numbers by the files of cgroup v1, which this may be,
// and of v2.
func TestCountersOfBothVersions(t *testing.T) {
	const v1, v2 = "/kiln.payload/c/", "kiln.payload/c/"
	old := hierarchy(t, map[string]string{
		"memory/cgroup.clone_children": "0\n", "cpuacct/cgroup.clone_children": "0\n", "cpuset/cgroup.clone_children": "0\n",
		"blkio/cgroup.clone_children": "0\n", "pids/cgroup.clone_children": "0\n", "hugetlb/cgroup.clone_children": "0\n",
		"cpuacct" + v1 + "cpuacct.usage_all":    "cpu user system\n0 3000000000 1000000000\n1 5 7\n",
		"cpuset" + v1 + "cpuset.effective_cpus": "0-2,7\n",
		"pids" + v1 + "pids.current":            "9\n",
		"memory" + v1 + "memory.usage_in_bytes": "700\n",
		"memory" + v1 + "memory.oom_control":    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
		"memory" + v1 + "memory.stat": `cache 1
hierarchical_memory_limit 1000
total_cache 300
total_rss 201
total_shmem 17
total_mapped_file 18
total_dirty 19
total_writeback 20
total_swap 21
total_inactive_anon 101
total_active_anon 102
total_inactive_file 103
total_active_file 104
total_unevictable 105
`,
		"hugetlb" + v1 + "hugetlb.2MB.usage_in_bytes":              "2097152\n",
		"hugetlb" + v1 + "hugetlb.2MB.limit_in_bytes":              "4194304\n",
		"blkio" + v1 + "blkio.throttle.io_service_bytes_recursive": "8:0 Read 11\n8:0 Write 12\n8:0 Total 23\nTotal 23\n",
		"blkio" + v1 + "blkio.throttle.io_serviced_recursive":      "8:0 Read 13\n8:0 Write 14\n8:0 Total 27\nTotal 27\n",
	})
	pure := hierarchy(t, map[string]string{
		"cgroup.controllers":            "cpu memory pids io cpuset\n",
		v2 + "cpu.stat":                 "usage_usec 4000000\nuser_usec 3000000\nsystem_usec 1000000\n",
		v2 + "cpuset.cpus.effective":    "0-2,7\n",
		v2 + "pids.current":             "9\n",
		v2 + "memory.current":           "700\n",
		v2 + "memory.max":               "1000\n",
		v2 + "memory.swap.current":      "21\n",
		v2 + "memory.events":            "low 0\nhigh 0\nmax 5\noom 4\noom_kill 3\n",
		v2 + "hugetlb.2MB.current":      "2097152\n",
		v2 + "hugetlb.2MB.max":          "4194304\n",
		v2 + "hugetlb.2MB.rsvd.current": "1\n",
		v2 + "io.stat":                  "8:0 rbytes=11 wbytes=12 rios=13 wios=14 dbytes=0 dios=0\n253:1 \n",
		v2 + "memory.stat": "anon 201\nfile 300\nshmem 17\nfile_mapped 18\nfile_dirty 19\nfile_writeback 20\n" +
			"inactive_anon 101\nactive_anon 102\ninactive_file 103\nactive_file 104\nunevictable 105\n",
	})
	want := Counters{
		CPU: []CPUTime{{0, 3 * time.Second, time.Second}}, CPUs: 4, Processes: 9,
		Memory: &MemoryCounters{Total: 1000, Used: 700, Available: 507, ActiveAnon: 102, InactiveAnon: 101, ActiveFile: 104,
			InactiveFile: 103, Unevictable: 105, Cache: 300, Dirty: 19, Writeback: 20, Mapped: 18, Anon: 201, Shared: 17,
			Swap: 21, Kills: 3},
		Hugepages: &Hugepages{4 << 20, 2 << 20},
		Disks:     []DiskCounters{{"8:0", 11, 12, 13, 14}},
	}
	if diff := cmp.Diff(want, pure.counters("c", 5000)); diff != "" {
		t.Errorf("v2: %s", diff)
	}
	want.CPU = append(want.CPU, CPUTime{1, 5, 7})
	if diff := cmp.Diff(want, old.counters("c", 5000)); diff != "" {
		t.Errorf("v1: %s", diff)
	}
	// Without a limit it is the host's, and without files nothing is told.
	for _, c := range []cgroups{hierarchy(t, map[string]string{"cgroup.controllers": "",
		v2 + "memory.max": "max\n", v2 + "memory.stat": "anon 1\n"})} {
		if m := c.counters("c", 5000).Memory; m == nil || m.Total != 5000 {
			t.Errorf("%+v", m)
		}
		if got := c.counters("gone", 5000); got.Memory != nil || got.CPU != nil || got.Disks != nil || got.Hugepages != nil {
			t.Errorf("%+v", got)
		}
	}
}

// TestInterfacesAreBounded reads the list of a container whose root has made many.
func TestInterfacesAreBounded(t *testing.T) {
	const heading = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes\n"
	const numbers = ": 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
	got := interfaceCounters(heading + "  eth0" + numbers + "e\xff" + numbers)
	want := []InterfaceCounters{{"eth0", Traffic{1, 2, 3, 4}, Traffic{5, 6, 7, 8}},
		{"e�", Traffic{1, 2, 3, 4}, Traffic{5, 6, 7, 8}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var many strings.Builder
	for n := range 1000 {
		many.WriteString("e" + strconv.Itoa(n) + numbers)
	}
	if n := len(interfaceCounters(many.String())); n != mostInterfaces {
		t.Errorf("%d interfaces", n)
	}
}

// TestCounters reads those of a container, and of one that ended.
func TestCounters(t *testing.T) {
	b := start(t, spec(t, busybox(t, "sleep 1000")))
	c, err := b.Counters(1 << 40)
	if err != nil {
		t.Fatal(err)
	}
	if c.Memory == nil || c.Memory.Anon == 0 || c.Processes == 0 || c.CPUs == 0 || len(c.CPU) == 0 ||
		len(c.Interfaces) == 0 || c.Interfaces[0].Name != "lo" {
		t.Errorf("%+v", c)
	}
	end(t, b)
	if _, err := b.Counters(1 << 40); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("of one that ended: %v", err)
	}
}
