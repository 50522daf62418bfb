// Package hardware tells what this host is made of, as /proc and /sys say: processors,
// memory, disks, network and graphics cards. What isn't there is left out.
//
// It doesn't know what instances use of it.
package hardware

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/api"
)

// A Root is the directory that proc and sys are in.
type Root string

// Host is this host.
const Host Root = "/"

// Read looks at all of it.
func (r Root) Read(arch string) api.Resources {
	return api.Resources{CPU: r.cpu(arch), Memory: r.memory(), GPU: r.gpu(), Network: r.network(), Storage: r.storage(),
		System: r.system()}
}

// text reads a small file; "" when there is none.
func (r Root) text(path ...string) string {
	b, err := os.ReadFile(r.path(path...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (r Root) path(path ...string) string {
	return filepath.Join(append([]string{string(r)}, path...)...)
}

// number reads a small file with a number; 0 when there is none, or it is less.
func (r Root) number(path ...string) uint64 {
	n, _ := strconv.ParseUint(r.text(path...), 10, 64)
	return n
}

// entries are the names in a directory, in their order with numbers as numbers.
func (r Root) entries(path string) []string {
	list, _ := os.ReadDir(r.path(path))
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(trailing(a), trailing(b)), cmp.Compare(a, b))
	})
	return names
}

// trailing is the number that a name ends in, -1: none.
func trailing(name string) int {
	digits := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return -1
	}
	return n
}

// link is the last part of where a symbolic link points; "": there is none.
func (r Root) link(path ...string) string {
	to, err := os.Readlink(r.path(path...))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// device tells what is behind a directory with a link "device".
func (r Root) device(dir string) api.ResourcesDevice {
	d := filepath.Join(dir, "device")
	return api.ResourcesDevice{Driver: r.link(d, "driver"), NUMANode: r.number(d, "numa_node"), PCIAddress: r.pci(d),
		VendorID: strings.TrimPrefix(r.text(d, "vendor"), "0x"), ProductID: strings.TrimPrefix(r.text(d, "device"), "0x")}
}

// pci is the address of the PCI device that a device is, or is part of.
func (r Root) pci(dir string) string {
	real, err := filepath.EvalSymlinks(r.path(dir))
	if err != nil {
		return ""
	}
	parts := strings.Split(real, "/")
	for _, part := range slices.Backward(parts) {
		if len(part) == len("0000:00:00.0") && part[4] == ':' && part[7] == ':' && part[10] == '.' {
			return part
		}
	}
	return ""
}

// Memory gives what this host has, in bytes; 0 if nobody knows.
func Memory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

func (r Root) memory() api.ResourcesMemory {
	m := meminfo(r.text("proc/meminfo"))
	out := api.ResourcesMemory{Total: m["MemTotal"], Used: m["MemTotal"] - min(m["MemTotal"], m["MemAvailable"]),
		HugepagesSize: m["Hugepagesize"], HugepagesTotal: m["HugePages_Total"] * m["Hugepagesize"],
		HugepagesUsed: (m["HugePages_Total"] - m["HugePages_Free"]) * m["Hugepagesize"], Nodes: []api.ResourcesMemoryNode{}}
	for _, name := range r.entries("sys/devices/system/node") {
		if !strings.HasPrefix(name, "node") || trailing(name) < 0 {
			continue
		}
		n := meminfo(r.text("sys/devices/system/node", name, "meminfo"))
		out.Nodes = append(out.Nodes, api.ResourcesMemoryNode{NUMANode: uint64(trailing(name)), Total: n["MemTotal"],
			Used: n["MemUsed"], HugepagesTotal: n["HugePages_Total"] * m["Hugepagesize"],
			HugepagesUsed: (n["HugePages_Total"] - n["HugePages_Free"]) * m["Hugepagesize"]})
	}
	return out
}

// meminfo reads lines such as "MemTotal: 1024 kB", also those that begin with "Node 0", in
// bytes.
func meminfo(text string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 3 && f[0] == "Node" {
			f = f[2:]
		}
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 53)
		if len(f) == 3 && f[2] == "kB" {
			n *= 1024
		}
		values[strings.TrimSuffix(f[0], ":")] = n
	}
	return values
}

func (r Root) system() api.ResourcesSystem {
	dmi := func(name string) string { return r.text("sys/class/dmi/id", name) }
	s := api.ResourcesSystem{UUID: strings.ToLower(dmi("product_uuid")), Vendor: dmi("sys_vendor"),
		Product: dmi("product_name"), Family: dmi("product_family"), Version: dmi("product_version"), SKU: dmi("product_sku"),
		Serial: dmi("product_serial"), Type: "physical"}
	if strings.Contains(" "+r.text("proc/cpuinfo")+" ", " hypervisor ") {
		s.Type = "virtual-machine"
	}
	return s
}
