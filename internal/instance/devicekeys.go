package instance

import (
	"slices"
	"strings"

	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/proxy"
)

// DeviceKeys are the configuration keys of devices, by their type; When says what one needs.
func DeviceKeys() map[string][]option.Key {
	return map[string][]option.Key{"disk": diskKeys(), "nic": nicKeys(), "proxy": proxy.Keys(), "unix-block": unixKeys(),
		"unix-char": unixKeys(), "gpu": gpuKeys(), "usb": usbKeys(), "unix-hotplug": hotplugKeys(), "none": nil}
}

// inOrder is what a type of device has besides the keys of every device node.
func inOrder(keys ...option.Key) []option.Key {
	for _, k := range unixKeys() {
		if k.Name == "gid" || k.Name == "mode" || k.Name == "uid" {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b option.Key) int { return strings.Compare(a.Name, b.Name) })
	return keys
}

// vendorKeys choose hardware by what it is.
func vendorKeys() (vendor, product option.Key) {
	id := option.Text("four hexadecimal digits")
	return option.Key{Name: "vendorid", Type: id, Help: "who made it, as lsusb and lspci -n show it"},
		option.Key{Name: "productid", Type: id, Help: "what it is, as lsusb and lspci -n show it"}
}

func gpuKeys() []option.Key {
	vendor, product := vendorKeys()
	return inOrder(vendor, product,
		option.Key{Name: "gputype", Type: option.Text("physical").Or("physical"), Help: "how it is given: whole"},
		option.Key{Name: "id", Type: option.Number("number"), Help: "the number of the card, as in /dev/dri/card0"},
		option.Key{Name: "pci", Type: option.Text("PCI address"), Help: "where it is, such as 0000:00:02.0"})
}

func usbKeys() []option.Key {
	vendor, product := vendorKeys()
	return inOrder(vendor, product,
		option.Key{Name: "busnum", Type: option.Number("number"), Help: "the bus that it is on"},
		option.Key{Name: "devnum", Type: option.Number("number"), Help: "its number on the bus"},
		option.Key{Name: "required", Type: option.Bool().Or("false"), Help: "true: the instance doesn't start without it"},
		option.Key{Name: "serial", Type: option.Text("text"), Help: "its serial number"})
}

func hotplugKeys() []option.Key {
	vendor, product := vendorKeys()
	return inOrder(vendor, product, option.Key{Name: "required", Type: option.Bool().Or("false"),
		Help: "true: the instance doesn't start without it"})
}

func diskKeys() []option.Key {
	off, rate := option.Bool().Or("false"), option.Text("size or operations a second, such as 20MiB or 500iops")
	return []option.Key{
		{Name: bothLimits, Type: rate, Help: "the most that is read, and the most that is written; live"},
		{Name: readLimit, Type: rate, Help: "the most that is read; live"},
		{Name: writeLimit, Type: rate, Help: "the most that is written; live"},
		{Name: "optional", Type: off, Help: "the instance starts without the source, if that is missing"},
		{Name: "path", Type: option.Text("path"), Help: "where it is in the instance; \"/\" is the root disk"},
		{Name: "pool", Type: option.Text("name"), Help: "default: source is a storage volume"},
		{Name: "raw.mount.options", Type: option.Text("options of mount(8), with commas between"),
			Help: "options of the mount, such as noexec"},
		{Name: "readonly", Type: off, Help: "the instance can't write to it"},
		{Name: "recursive", Type: off, Help: "also what is mounted below the source"},
		{Name: "required", Type: option.Bool().Or("true"), Help: "false: the same as optional=true"},
		{Name: "shift", Type: off, Help: "files have the same owners in the instance as on the host"},
		{Name: "size", Type: option.Size(), Help: "how much it holds", When: "source=tmpfs:"},
		{Name: "source", Type: option.Text("path, name or tmpfs:"),
			Help: "a directory or file of the host, with pool a storage volume, or tmpfs: for memory"},
	}
}

func nicKeys() []option.Key {
	off, rate := option.Bool().Or("false"), option.Text("bits a second, such as 100Mbit")
	const bridged, named = "network, bridged", "all but physical"
	return []option.Key{
		{Name: "host_name", Type: option.Text("name"), Help: "name of the host's end", When: bridged + ", p2p"},
		{Name: "hwaddr", Type: option.Text("MAC address"), Help: "its address; unset: one that stays", When: named},
		{Name: "ipv4.address", Type: option.Text("address"), Help: "the address that it is given", When: "network"},
		{Name: "ipv6.address", Type: option.Text("address"), Help: "the address that it is given", When: "network"},
		{Name: limitOut, Type: rate, Help: "the most that the instance sends; live", When: bridged},
		{Name: limitIn, Type: rate, Help: "the most that the instance receives; live", When: bridged},
		{Name: limitBoth, Type: rate, Help: "both of them; live", When: bridged},
		{Name: "mtu", Type: option.Text("bytes"), Help: "the largest packet; unset: that of the bridge or parent",
			When: named},
		{Name: "name", Type: option.Text("name"), Help: "name of the interface in the instance; unset: the device's"},
		{Name: "network", Type: option.Text("name"), Help: "the network that it is on, in the place of nictype and parent"},
		{Name: "nictype", Type: option.OneOf("bridged", "macvlan", "p2p", "physical"),
			Help: "how it is connected, where it is on no network"},
		{Name: "parent", Type: option.Text("name"), Help: "the bridge or interface of the host",
			When: "bridged, macvlan, physical"},
		{Name: checkIPv4, Type: off, Help: "only packets from its own address pass; live", When: "network"},
		{Name: checkIPv6, Type: off, Help: "only packets from its own addresses pass; live", When: "network"},
		{Name: checkMAC, Type: off, Help: "only packets from its own MAC address pass; live", When: bridged},
	}
}

func unixKeys() []option.Key {
	id := option.Number("number")
	return []option.Key{
		{Name: "gid", Type: id.Or("0"), Help: "group of the node, in the instance"},
		{Name: "major", Type: id, Help: "number of the device; unset: that of the source"},
		{Name: "minor", Type: id, Help: "number of the device; unset: that of the source"},
		{Name: "mode", Type: option.Text("octal number").Or("0660"), Help: "permissions of the node"},
		{Name: "path", Type: option.Text("path"), Help: "where it is in the instance; unset: as on the host"},
		{Name: "required", Type: option.Bool().Or("true"),
			Help: "false: the instance starts without the source, if that is missing"},
		{Name: "source", Type: option.Text("path"), Help: "the node of the host; unset: the path"},
		{Name: "uid", Type: id.Or("0"), Help: "owner of the node, in the instance"},
	}
}
