package hardware

import (
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln/api"
)

const cpus = "sys/devices/system/cpu"

// A thread is where one processor is.
type thread struct {
	socket, die, core uint64
	api.ResourcesCPUThread
}

func (r Root) cpu(arch string) api.ResourcesCPU {
	out := api.ResourcesCPU{Architecture: arch, Sockets: []api.ResourcesCPUSocket{}}
	for _, t := range r.threads() {
		out.Total++
		at := slices.IndexFunc(out.Sockets, func(s api.ResourcesCPUSocket) bool { return s.Socket == t.socket })
		if at < 0 {
			at = len(out.Sockets)
			out.Sockets = append(out.Sockets, r.socket(t))
		}
		s := &out.Sockets[at]
		c := slices.IndexFunc(s.Cores, func(c api.ResourcesCPUCore) bool { return c.Core == t.core && c.Die == t.die })
		if c < 0 {
			c = len(s.Cores)
			s.Cores = append(s.Cores, api.ResourcesCPUCore{Core: t.core, Die: t.die,
				Frequency: r.mhz(t.ID, "cpufreq/scaling_cur_freq")})
		}
		t.Thread = uint64(len(s.Cores[c].Threads))
		s.Cores[c].Threads = append(s.Cores[c].Threads, t.ResourcesCPUThread)
	}
	return out
}

// threads are all processors that the host has, in the order of their numbers.
func (r Root) threads() []thread {
	var list []thread
	isolated := r.text(cpus, "isolated")
	for _, name := range r.entries(cpus) {
		id, err := strconv.ParseInt(strings.TrimPrefix(name, "cpu"), 10, 64)
		if err != nil || !strings.HasPrefix(name, "cpu") {
			continue
		}
		topology := cpus + "/" + name + "/topology"
		t := thread{socket: r.number(topology, "physical_package_id"), die: r.number(topology, "die_id"),
			core: r.number(topology, "core_id")}
		t.ID, t.Isolated = id, inList(isolated, id)
		online := r.text(cpus, name, "online") // the first often can't be turned off, and has none
		t.Online = online == "" || online == "1"
		for _, node := range r.entries(cpus + "/" + name) {
			if strings.HasPrefix(node, "node") && trailing(node) >= 0 {
				t.NUMANode = uint64(trailing(node))
			}
		}
		list = append(list, t)
	}
	return list
}

// inList reports whether a number is in a list such as "0-3,7".
func inList(list string, n int64) bool {
	for part := range strings.SplitSeq(list, ",") {
		first, last, two := strings.Cut(part, "-")
		if !two {
			last = first
		}
		from, err1 := strconv.ParseInt(first, 10, 64)
		to, err2 := strconv.ParseInt(last, 10, 64)
		if err1 == nil && err2 == nil && n >= from && n <= to {
			return true
		}
	}
	return false
}

func (r Root) mhz(id int64, file string) uint64 {
	return r.number(cpus, "cpu"+strconv.FormatInt(id, 10), file) / 1000
}

// socket tells what is the same for all processors of one.
func (r Root) socket(t thread) api.ResourcesCPUSocket {
	s := api.ResourcesCPUSocket{Socket: t.socket, Frequency: r.mhz(t.ID, "cpufreq/scaling_cur_freq"),
		FrequencyMinimum: r.mhz(t.ID, "cpufreq/cpuinfo_min_freq"), FrequencyTurbo: r.mhz(t.ID, "cpufreq/cpuinfo_max_freq")}
	for line := range strings.Lines(r.text("proc/cpuinfo")) {
		key, value, _ := strings.Cut(line, ":")
		switch key, value := strings.TrimSpace(key), strings.TrimSpace(value); {
		case key == "model name" && s.Name == "":
			s.Name = value
		case key == "vendor_id" && s.Vendor == "":
			s.Vendor = value
		}
	}
	dir := cpus + "/cpu" + strconv.FormatInt(t.ID, 10) + "/cache"
	for _, index := range r.entries(dir) {
		if size, ok := strings.CutSuffix(r.text(dir, index, "size"), "K"); ok {
			n, _ := strconv.ParseUint(size, 10, 53)
			s.Cache = append(s.Cache, api.ResourcesCPUCache{Level: r.number(dir, index, "level"),
				Type: r.text(dir, index, "type"), Size: n * 1024})
		}
	}
	return s
}
