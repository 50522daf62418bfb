package hardware

import (
	"cmp"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Node is a device that this host has a device node for.
type Node struct {
	Path         string // of the node, as this host names it: below /dev
	Block        bool
	Major, Minor uint32
}

// A Match says which devices are meant. What is empty doesn't matter.
type Match struct {
	Vendor, Product string // four hexadecimal digits, lower case
	PCI             string // an address, such as 0000:00:02.0
	ID              string // the number of a graphics card: that of cardN
	Bus, Device     string // numbers of a USB device
	Serial          string // of a USB device
}

// GPUNodes gives the nodes of graphics cards: those of the kernel's DRM, and those of NVIDIA's
// driver, with which all its cards share some.
func (r Root) GPUNodes(m Match) []Node {
	var nodes []Node
	nvidia := false
	for _, card := range r.cards() {
		dir := "sys/class/drm/" + card
		d := r.device(dir)
		if !is(m.Vendor, d.VendorID) || !is(m.Product, d.ProductID) || !is(m.PCI, d.PCIAddress) ||
			!is(m.ID, strings.TrimPrefix(card, "card")) {
			continue
		}
		for _, name := range r.entries(dir + "/device/drm") { // card0, renderD128, …
			nodes = r.appendNode(nodes, dir+"/device/drm/"+name)
		}
		minor, known := r.nvidiaMinor(d.PCIAddress)
		if known {
			nvidia = true
			nodes = r.appendSpecial(nodes, "nvidia"+minor)
		}
	}
	if nvidia {
		for _, name := range r.entries("dev") {
			if strings.HasPrefix(name, "nvidia") && trailing(name) < 0 { // nvidiactl, nvidia-uvm, …
				nodes = r.appendSpecial(nodes, name)
			}
		}
	}
	return sorted(nodes)
}

// nvidiaMinor is the number that NVIDIA's driver gives the card at an address.
func (r Root) nvidiaMinor(pci string) (minor string, known bool) {
	if pci == "" {
		return "", false
	}
	for line := range strings.Lines(r.text("proc/driver/nvidia/gpus", pci, "information")) {
		key, value, _ := strings.Cut(line, ":")
		if key == "Device Minor" {
			value = strings.TrimSpace(value)
			_, err := strconv.ParseUint(value, 10, 20)
			return value, err == nil
		}
	}
	return "", false
}

// USBNodes gives the nodes by which programs talk to USB devices: /dev/bus/usb/BUS/DEVICE.
func (r Root) USBNodes(m Match) []Node {
	var nodes []Node
	for _, name := range r.entries("sys/bus/usb/devices") {
		if dir := "sys/bus/usb/devices/" + name; r.isUSB(dir, m) {
			nodes = r.appendNode(nodes, dir)
		}
	}
	return sorted(nodes)
}

func (r Root) isUSB(dir string, m Match) bool {
	vendor := r.text(dir, "idVendor")
	return vendor != "" && is(m.Vendor, vendor) && is(m.Product, r.text(dir, "idProduct")) &&
		is(m.Bus, r.text(dir, "busnum")) && is(m.Device, r.text(dir, "devnum")) && is(m.Serial, r.text(dir, "serial"))
}

// BehindUSB gives the nodes that drivers made for USB devices, such as /dev/ttyUSB0 or
// /dev/sdb: not those of USBNodes.
func (r Root) BehindUSB(m Match) []Node {
	var nodes []Node
	for _, kind := range []string{"char", "block"} {
		for _, name := range r.entries("sys/dev/" + kind) {
			dir := "sys/dev/" + kind + "/" + name
			if r.link(dir, "subsystem") != "usb" && r.behind(dir, m) {
				nodes = r.appendNode(nodes, dir)
			}
		}
	}
	return sorted(nodes)
}

// behind reports whether one of the devices that a device is part of is the USB device meant.
func (r Root) behind(dir string, m Match) bool {
	real, err := filepath.EvalSymlinks(r.path(dir))
	if err != nil {
		return false
	}
	top, err := filepath.EvalSymlinks(r.path("sys"))
	if err != nil {
		return false
	}
	for ; len(real) > len(top); real = filepath.Dir(real) {
		if rel, err := filepath.Rel(string(r), real); err == nil && r.text(rel, "idVendor") != "" {
			return r.isUSB(rel, m) // a hub above it is another device
		}
	}
	return false
}

// appendNode adds the node of a device of sysfs, if it has one.
func (r Root) appendNode(nodes []Node, dir string) []Node {
	n := Node{Block: r.link(dir, "subsystem") == "block"}
	for line := range strings.Lines(r.text(dir, "uevent")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		number, _ := strconv.ParseUint(value, 10, 32)
		switch key {
		case "MAJOR":
			n.Major = uint32(number)
		case "MINOR":
			n.Minor = uint32(number)
		case "DEVNAME":
			n.Path = path.Join("/dev", path.Clean("/"+value))
		}
	}
	if n.Path == "" || n.Path == "/dev" || n.Major == 0 {
		return nodes
	}
	return append(nodes, n)
}

// appendSpecial adds the character device that a file of /dev is, if it is one.
func (r Root) appendSpecial(nodes []Node, name string) []Node {
	fi, err := os.Lstat(r.path("dev", name))
	if err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return nodes
	}
	st := fi.Sys().(*syscall.Stat_t)
	return append(nodes, Node{Path: "/dev/" + name, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)})
}

func is(want, has string) bool { return want == "" || want == has }

// sorted gives each node once, by path.
func sorted(nodes []Node) []Node {
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Path, b.Path) })
	return slices.CompactFunc(nodes, func(a, b Node) bool { return a.Path == b.Path })
}
