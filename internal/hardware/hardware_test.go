package hardware

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// machine makes a root of files and symbolic links, which begin with "->".
func machine(t *testing.T, files map[string]string) Root {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if len(text) > 2 && text[:2] == "->" {
			err = os.Symlink(text[2:], path)
		} else {
			err = os.WriteFile(path, []byte(text+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Root(dir)
}

func TestRead(t *testing.T) {
	files := map[string]string{
		"proc/cpuinfo": "processor : 0\nvendor_id : Maker\nmodel name : Fast One\nflags : fpu hypervisor lm",
		"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 400 kB\nHugePages_Total: 4\nHugePages_Free: 1\nHugepagesize: 2 kB",
		"sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 1000 kB\nNode 0 MemUsed: 500 kB\n" +
			"Node 0 HugePages_Total: 4\nNode 0 HugePages_Free: 1",
		"sys/devices/system/cpu/isolated":          "2-3",
		"sys/devices/system/cpu/cpuidle/x":         "",
		"sys/class/dmi/id/sys_vendor":              "Acme",
		"sys/devices/pci/0000:00:03.0/vendor":      "0x1af4",
		"sys/devices/pci/0000:00:03.0/device":      "0x1000",
		"sys/devices/pci/0000:00:03.0/numa_node":   "-1",
		"sys/devices/pci/0000:00:03.0/driver":      "->/drivers/fastnet",
		"sys/devices/pci/0000:00:04.0/virtio1/x":   "",
		"sys/class/net/eth0/device":                "->../../../devices/pci/0000:00:03.0",
		"sys/class/net/eth0/address":               "02:00:00:00:00:01",
		"sys/class/net/eth0/type":                  "1",
		"sys/class/net/eth0/carrier":               "1",
		"sys/class/net/eth0/speed":                 "-1",
		"sys/class/net/br0/address":                "02:00:00:00:00:02",
		"sys/block/vda/device":                     "->../../devices/pci/0000:00:04.0/virtio1",
		"sys/block/vda/dev":                        "253:0",
		"sys/block/vda/size":                       "2048",
		"sys/block/vda/queue/logical_block_size":   "512",
		"sys/block/vda/vda1/partition":             "1",
		"sys/block/vda/vda1/size":                  "1024",
		"sys/block/vda/vda1/dev":                   "253:1",
		"sys/block/loop0/size":                     "8",
		"sys/devices/system/cpu/cpu0/cache/i/size": "32K",
	}
	// Two cores with two threads each, numbered as kernels do.
	for id, core := range map[string]string{"0": "0", "1": "1", "2": "0", "3": "1"} {
		files["sys/devices/system/cpu/cpu"+id+"/topology/core_id"] = core
		files["sys/devices/system/cpu/cpu"+id+"/topology/physical_package_id"] = "0"
		files["sys/devices/system/cpu/cpu"+id+"/node0/x"] = ""
	}
	files["sys/devices/system/cpu/cpu3/online"] = "0"
	thread := func(id int64, n uint64) api.ResourcesCPUThread {
		return api.ResourcesCPUThread{ID: id, Thread: n, Online: id != 3, Isolated: id >= 2}
	}
	want := api.Resources{
		CPU: api.ResourcesCPU{Architecture: "x86_64", Total: 4, Sockets: []api.ResourcesCPUSocket{{Name: "Fast One",
			Vendor: "Maker", Cache: []api.ResourcesCPUCache{{Size: 32 << 10}}, Cores: []api.ResourcesCPUCore{
				{Core: 0, Threads: []api.ResourcesCPUThread{thread(0, 0), thread(2, 1)}},
				{Core: 1, Threads: []api.ResourcesCPUThread{thread(1, 0), thread(3, 1)}}}}}},
		Memory: api.ResourcesMemory{Total: 1000 << 10, Used: 600 << 10, HugepagesSize: 2 << 10, HugepagesTotal: 8 << 10,
			HugepagesUsed: 6 << 10, Nodes: []api.ResourcesMemoryNode{{Total: 1000 << 10, Used: 500 << 10,
				HugepagesTotal: 8 << 10, HugepagesUsed: 6 << 10}}},
		GPU: api.ResourcesGPU{Cards: []api.ResourcesGPUCard{}},
		Network: api.ResourcesNetwork{Total: 1, Cards: []api.ResourcesNetworkCard{{
			ResourcesDevice: api.ResourcesDevice{Driver: "fastnet", PCIAddress: "0000:00:03.0", VendorID: "1af4",
				ProductID: "1000"},
			Ports: []api.ResourcesNetworkPort{{ID: "eth0", Address: "02:00:00:00:00:01", Protocol: "ethernet",
				LinkDetected: true}}}}},
		Storage: api.ResourcesStorage{Total: 2, Disks: []api.ResourcesDisk{{ID: "vda", Device: "253:0", Size: 1 << 20,
			BlockSize: 512, PCIAddress: "0000:00:04.0",
			Partitions: []api.ResourcesPartition{{ID: "vda1", Device: "253:1", Size: 512 << 10, Partition: 1}}}}},
		System: api.ResourcesSystem{Vendor: "Acme", Type: "virtual-machine"},
	}
	if diff := cmp.Diff(want, machine(t, files).Read("x86_64")); diff != "" {
		t.Error(diff)
	}
}

// TestHost compares with what else knows of this host.
func TestHost(t *testing.T) {
	r := Host.Read("x86_64")
	if r.CPU.Total < uint64(runtime.NumCPU()) || len(r.CPU.Sockets) == 0 || r.Memory.Used >= r.Memory.Total {
		t.Errorf("%+v %+v", r.CPU, r.Memory)
	}
	if empty := Root(t.TempDir()).Read("x86_64"); empty.CPU.Total != 0 || empty.Memory.Total != 0 {
		t.Errorf("a host without anything: %+v", empty)
	}
}

func TestDisksOf(t *testing.T) {
	r := machine(t, map[string]string{
		"sys/devices/vda/dev":            "254:0",
		"sys/devices/vda/vda1/dev":       "254:1",
		"sys/devices/vda/vda1/partition": "1",
		"sys/devices/vdb/dev":            "254:16",
		"sys/dev/block/254:0":            "->../../devices/vda",
		"sys/dev/block/254:1":            "->../../devices/vda/vda1",
		"sys/dev/block/254:16":           "->../../devices/vdb",
		"sys/fs/btrfs/features/x":        "1",
		"sys/fs/btrfs/one/devices/vdb":   "->../../../../devices/vdb",
		"sys/fs/btrfs/two/devices/vda1":  "->../../../../devices/vda/vda1",
		"sys/fs/btrfs/two/devices/vdb2":  "->../../../../devices/vdb",
		"proc/self/mountinfo": "7 1 0:30 / /a rw shared:1 - btrfs /dev/vda1 rw\n8 1 0:31 / /b rw - tmpfs none rw\n" +
			"9 1 0:33 / /c rw - btrfs /dev/gone rw",
	})
	for f, want := range map[File][]string{
		{Major: 254, Minor: 0}:           {"254:0"},
		{Major: 254, Minor: 1}:           {"254:0"},
		{Major: 7, Minor: 3}:             {"7:3"}, // one that sysfs doesn't tell of
		{Major: 0, Minor: 55, Mount: 7}:  {"254:0", "254:16"},
		{Major: 0, Minor: 55, Mount: 8}:  nil,
		{Major: 0, Minor: 55, Mount: 9}:  nil,
		{Major: 0, Minor: 55, Mount: 10}: nil,
	} {
		got, err := r.DisksOf(f)
		if !cmp.Equal(got, want) || (want == nil) != (kiln.KindOf(err) == kiln.Unsupported) {
			t.Errorf("%+v: %v, %v; want %v", f, got, err, want)
		}
	}
}

// TestNodes finds the device nodes of graphics cards and of USB devices.
func TestNodes(t *testing.T) {
	const intel, nvidia, usb = "sys/devices/pci/0000:00:02.0", "sys/devices/pci/0000:01:00.0", "sys/devices/pci/usb1"
	node := func(major, minor, name string) string {
		return "MAJOR=" + major + "\nMINOR=" + minor + "\nDEVNAME=" + name
	}
	host := machine(t, map[string]string{
		intel + "/vendor": "0x8086", intel + "/device": "0x3e92",
		intel + "/drm/card0/uevent":      node("226", "0", "dri/card0"),
		intel + "/drm/renderD128/uevent": node("226", "128", "dri/renderD128"),
		intel + "/drm/card0/device":      "->../../../0000:00:02.0",
		nvidia + "/vendor":               "0x10de", nvidia + "/device": "0x1eb8",
		nvidia + "/drm/card1/uevent":                       node("226", "1", "dri/card1"),
		nvidia + "/drm/card1/device":                       "->../../../0000:01:00.0",
		"sys/class/drm/card0":                              "->../../devices/pci/0000:00:02.0/drm/card0",
		"sys/class/drm/card0-HDMI-A-1/x":                   "",
		"sys/class/drm/card1":                              "->../../devices/pci/0000:01:00.0/drm/card1",
		"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: Fast\nDevice Minor: \t 0",
		usb + "/idVendor":                                  "1d6b", usb + "/busnum": "1", usb + "/devnum": "1",
		usb + "/uevent":       node("189", "0", "bus/usb/001/001"),
		usb + "/subsystem":    "->../../../bus/usb",
		usb + "/1-1/idVendor": "0403", usb + "/1-1/idProduct": "6001", usb + "/1-1/busnum": "1",
		usb + "/1-1/devnum": "7", usb + "/1-1/serial": "A1",
		usb + "/1-1/uevent":             node("189", "6", "bus/usb/001/007"),
		usb + "/1-1/subsystem":          "->../../../../bus/usb",
		usb + "/1-1/if/tty/uevent":      node("188", "0", "ttyUSB0"),
		usb + "/1-1/if/tty/subsystem":   "->../../../../../../class/tty",
		usb + "/1-1/if/odd/uevent":      node("188", "1", "../../etc/shadow"),
		usb + "/1-1/if/odd/subsystem":   "->../../../../../../class/odd",
		usb + "/1-1/if/disk/uevent":     node("8", "16", "sdb"),
		usb + "/1-1/if/disk/subsystem":  "->../../../../../../class/block",
		"sys/bus/usb/devices/usb1":      "->../../../devices/pci/usb1",
		"sys/bus/usb/devices/1-1":       "->../../../devices/pci/usb1/1-1",
		"sys/bus/usb/devices/1-1:1.0/x": "",
		"sys/dev/char/189:0":            "->../../devices/pci/usb1",
		"sys/dev/char/189:6":            "->../../devices/pci/usb1/1-1",
		"sys/dev/char/188:0":            "->../../devices/pci/usb1/1-1/if/tty",
		"sys/dev/char/188:1":            "->../../devices/pci/usb1/1-1/if/odd",
		"sys/dev/block/8:16":            "->../../devices/pci/usb1/1-1/if/disk",
		"sys/dev/char/1:3":              "->../../devices/none",
		"dev/nvidia-text":               "no device",
	})
	for name, n := range map[string]uint64{"nvidia0": unix.Mkdev(195, 0), "nvidia1": unix.Mkdev(195, 1),
		"nvidiactl": unix.Mkdev(195, 255)} {
		if err := unix.Mknod(filepath.Join(string(host), "dev", name), unix.S_IFCHR|0o600, int(n)); err != nil {
			t.Fatal(err)
		}
	}
	card0, render := Node{Path: "/dev/dri/card0", Major: 226}, Node{Path: "/dev/dri/renderD128", Major: 226, Minor: 128}
	card1 := []Node{{Path: "/dev/dri/card1", Major: 226, Minor: 1}, {Path: "/dev/nvidia0", Major: 195},
		{Path: "/dev/nvidiactl", Major: 195, Minor: 255}}
	hub, serial := Node{Path: "/dev/bus/usb/001/001", Major: 189}, Node{Path: "/dev/bus/usb/001/007", Major: 189, Minor: 6}
	behind := []Node{{Path: "/dev/etc/shadow", Major: 188, Minor: 1}, {Path: "/dev/sdb", Block: true, Major: 8, Minor: 16},
		{Path: "/dev/ttyUSB0", Major: 188}}
	for _, c := range []struct {
		what  string
		nodes func(Root, Match) []Node
		match Match
		want  []Node
	}{
		{"all cards", Root.GPUNodes, Match{}, append([]Node{card0}, append(card1[:1:1], render, card1[1], card1[2])...)},
		{"one maker's", Root.GPUNodes, Match{Vendor: "10de"}, card1},
		{"a product", Root.GPUNodes, Match{Product: "3e92"}, []Node{card0, render}},
		{"an address", Root.GPUNodes, Match{PCI: "0000:01:00.0"}, card1},
		{"a number", Root.GPUNodes, Match{ID: "0"}, []Node{card0, render}},
		{"none", Root.GPUNodes, Match{Vendor: "10de", ID: "0"}, nil},
		{"all of USB", Root.USBNodes, Match{}, []Node{hub, serial}},
		{"a USB product", Root.USBNodes, Match{Vendor: "0403", Product: "6001"}, []Node{serial}},
		{"a serial number", Root.USBNodes, Match{Serial: "A1"}, []Node{serial}},
		{"a place", Root.USBNodes, Match{Bus: "1", Device: "1"}, []Node{hub}},
		{"no place", Root.USBNodes, Match{Bus: "2", Device: "1"}, nil},
		{"what drivers made", Root.BehindUSB, Match{Vendor: "0403"}, behind},
		{"not what is behind a hub", Root.BehindUSB, Match{Vendor: "1d6b"}, nil},
	} {
		if diff := cmp.Diff(c.want, c.nodes(host, c.match)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}

// TestWatch has the kernel say once more that /dev/null came: only kernels, and devices with
// a node, are heard.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	came, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- Watch(ctx, func() { came <- struct{}{} }) }()
	for deadline := time.Now().Add(20 * time.Second); len(came) == 0; time.Sleep(10 * time.Millisecond) {
		if err := os.WriteFile("/sys/class/mem/null/uevent", []byte("add"), 0); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody was told")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		text string
		want bool
	}{
		{"add@/x\x00ACTION=add\x00DEVNAME=null\x00", true}, {"remove@/x\x00ACTION=remove\x00DEVNAME=null\x00", true},
		{"change@/x\x00ACTION=change\x00DEVNAME=sda\x00", false}, {"add@/x\x00ACTION=add\x00SUBSYSTEM=net\x00", false},
		{"", false},
	} {
		if got := isChange([]byte(c.text)); got != c.want {
			t.Errorf("%q: %v", c.text, got)
		}
	}
}
