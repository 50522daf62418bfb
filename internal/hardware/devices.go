package hardware

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln/api"
)

// sector is what the kernel gives sizes of disks in.
const sector = 512

func (r Root) storage() api.ResourcesStorage {
	out := api.ResourcesStorage{Disks: []api.ResourcesDisk{}}
	for _, name := range r.entries("sys/block") {
		dir := "sys/block/" + name
		if _, err := os.Stat(r.path(dir, "device")); err != nil {
			continue // a loop device, or made of others
		}
		disk := api.ResourcesDisk{ID: name, Device: r.text(dir, "dev"), Model: r.text(dir, "device/model"),
			ReadOnly: r.text(dir, "ro") == "1", Size: r.number(dir, "size") * sector,
			Removable: r.text(dir, "removable") == "1", WWN: r.text(dir, "wwid"), NUMANode: r.number(dir, "device/numa_node"),
			BlockSize: r.number(dir, "queue/logical_block_size"), Serial: r.text(dir, "serial"),
			PCIAddress: r.pci(dir + "/device"), Type: r.diskType(name, dir), Partitions: r.partitions(name)}
		if r.text(dir, "queue/rotational") == "1" {
			disk.RPM = 1 // it turns; how fast isn't said
		}
		out.Disks = append(out.Disks, disk)
		out.Total += 1 + uint64(len(disk.Partitions))
	}
	return out
}

func (r Root) diskType(name, dir string) string {
	if strings.HasPrefix(name, "nvme") {
		return "nvme"
	}
	return r.link(dir, "device/subsystem")
}

func (r Root) partitions(disk string) []api.ResourcesPartition {
	list := []api.ResourcesPartition{}
	for _, name := range r.entries("sys/block/" + disk) {
		dir := filepath.Join("sys/block", disk, name)
		if n := r.number(dir, "partition"); n > 0 {
			list = append(list, api.ResourcesPartition{ID: name, Device: r.text(dir, "dev"),
				ReadOnly: r.text(dir, "ro") == "1", Size: r.number(dir, "size") * sector, Partition: n})
		}
	}
	return list
}

func (r Root) network() api.ResourcesNetwork {
	out := api.ResourcesNetwork{Cards: []api.ResourcesNetworkCard{}}
	behind := map[string]int{} // cards, by what is behind their ports
	for _, name := range r.entries("sys/class/net") {
		dir := "sys/class/net/" + name
		device, err := filepath.EvalSymlinks(r.path(dir, "device"))
		if err != nil {
			continue // a bridge, a tunnel, …
		}
		at, known := behind[device]
		if !known {
			at = len(out.Cards)
			behind[device] = at
			out.Cards = append(out.Cards, api.ResourcesNetworkCard{ResourcesDevice: r.device(dir)})
		}
		protocol := map[string]string{"1": "ethernet", "32": "infiniband"}[r.text(dir, "type")]
		port := api.ResourcesNetworkPort{ID: name, Address: r.text(dir, "address"), Port: r.number(dir, "dev_port"),
			Protocol: protocol, LinkDetected: r.text(dir, "carrier") == "1", LinkSpeed: r.number(dir, "speed"),
			LinkDuplex: r.text(dir, "duplex")}
		out.Cards[at].Ports = append(out.Cards[at].Ports, port)
	}
	out.Total = uint64(len(out.Cards))
	return out
}

func (r Root) gpu() api.ResourcesGPU {
	out := api.ResourcesGPU{Cards: []api.ResourcesGPUCard{}}
	for _, name := range r.cards() {
		dir := "sys/class/drm/" + name
		out.Cards = append(out.Cards, api.ResourcesGPUCard{ResourcesDevice: r.device(dir),
			DRM: &api.ResourcesDRM{ID: uint64(max(0, trailing(name))), CardName: name, CardDevice: r.text(dir, "dev")}})
	}
	out.Total = uint64(len(out.Cards))
	return out
}

// cards are the names of the graphics cards.
func (r Root) cards() []string {
	return slices.DeleteFunc(r.entries("sys/class/drm"), func(n string) bool {
		return !strings.HasPrefix(n, "card") || strings.Contains(n, "-") // which are plugs
	})
}
