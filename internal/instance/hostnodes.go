package instance

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/project"
)

// hostNodes are the device nodes of a piece of hardware that is found by what it is: a
// graphics card, a USB device, or what drivers make of one. They are at the same paths in the
// instance. USB devices come and go while it runs.
type hostNodes struct {
	kind  string
	hot   bool // may come and go, and be missing unless it is required
	other map[string]string
	match func(d map[string]string) hardware.Match
	nodes func(hardware.Root, hardware.Match) []hardware.Node
}

// maxNodes bounds the device nodes of one device.
const maxNodes = 64

func gpuDevice() hostNodes {
	mediated := "kiln gives whole cards (gputype=physical)"
	return hostNodes{kind: "gpu", other: map[string]string{"mdev": mediated, "mig.ci": mediated, "mig.gi": mediated,
		"mig.uuid": mediated},
		match: func(d map[string]string) hardware.Match {
			return hardware.Match{Vendor: d["vendorid"], Product: d["productid"], PCI: pciAddress(d["pci"]), ID: d["id"]}
		}, nodes: hardware.Root.GPUNodes}
}

func usbDevice() hostNodes {
	return hostNodes{kind: "usb", hot: true, match: func(d map[string]string) hardware.Match {
		return hardware.Match{Vendor: d["vendorid"], Product: d["productid"], Bus: d["busnum"], Device: d["devnum"],
			Serial: d["serial"]}
	}, nodes: hardware.Root.USBNodes}
}

func hotplugDevice() hostNodes {
	return hostNodes{kind: "unix-hotplug", hot: true,
		other: map[string]string{"subsystem": "", "ownership.inherit": ""},
		match: func(d map[string]string) hardware.Match {
			return hardware.Match{Vendor: d["vendorid"], Product: d["productid"]}
		}, nodes: hardware.Root.BehindUSB}
}

// pciAddress is an address with its domain, which people leave out.
func pciAddress(a string) string {
	a = strings.ToLower(a)
	if len(a) == len("00:02.0") {
		return "0000:" + a
	}
	return a
}

var (
	hardwareID = regexp.MustCompile(`^[0-9a-f]{4}$`)
	pciPattern = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
)

func (t hostNodes) check(d map[string]string) error {
	if err := checkKeys(t.kind, d, option.Names(DeviceKeys()[t.kind]), t.other); err != nil {
		return err
	}
	if v := d["gputype"]; v != "" && v != "physical" {
		return kiln.Errorf(kiln.Unsupported, "gputype %q is not supported: kiln gives whole cards (gputype=physical)", v)
	}
	for _, key := range []string{"vendorid", "productid"} {
		if v := d[key]; v != "" && !hardwareID.MatchString(v) {
			return kiln.Errorf(kiln.Invalid, "%s %q is not four hexadecimal digits in lower case, such as 10de", key, v)
		}
	}
	if v := d["pci"]; v != "" && !pciPattern.MatchString(pciAddress(v)) {
		return kiln.Errorf(kiln.Invalid, "pci %q is not an address such as 0000:00:02.0", v)
	}
	for _, key := range []string{"id", "busnum", "devnum"} {
		if v := d[key]; v != "" {
			if err := checkNumber(v); err != nil {
				return kiln.Errorf(kiln.Invalid, "%s %w", key, err)
			}
		}
	}
	if t.kind == "unix-hotplug" && d["vendorid"] == "" && d["productid"] == "" {
		return kiln.Errorf(kiln.Invalid, "vendorid= or productid= of the USB device is missing; lsusb shows them")
	}
	if err := checkBool(d["required"]); err != nil {
		return kiln.Errorf(kiln.Invalid, "required: %w", err)
	}
	return checkNodeKeys(d)
}

// find gives the nodes that there are now. Errors: NotFound when there are none, TooLarge.
func (t hostNodes) find(in *guest) ([]hardware.Node, error) {
	nodes := t.nodes(in.set.hardware(), t.match(in.keys))
	switch {
	case len(nodes) > maxNodes:
		return nil, kiln.Errorf(kiln.TooLarge, "%d device nodes fit, and one device may have %d; say more exactly which",
			len(nodes), maxNodes)
	case len(nodes) > 0:
		return nodes, nil
	case t.kind == "gpu":
		return nil, kiln.Errorf(kiln.NotFound, "this host has no graphics card%s; kiln info --resources lists those it has",
			t.wanted(in.keys))
	}
	return nil, kiln.Errorf(kiln.NotFound, "this host has no %s device%s now; lsusb lists those it has", t.kind,
		t.wanted(in.keys))
}

// wanted tells what the device is to be.
func (t hostNodes) wanted(d map[string]string) string {
	var list []string
	for _, key := range option.Names(DeviceKeys()[t.kind]) {
		if v := d[key]; v != "" && !slices.Contains([]string{"required", "gputype", "uid", "gid", "mode"}, key) {
			list = append(list, key+"="+v)
		}
	}
	if list == nil {
		return ""
	}
	return " with " + strings.Join(list, ", ")
}

// mayMiss reports whether an instance runs without the device.
func (t hostNodes) mayMiss(d map[string]string) bool { return t.hot && !kiln.IsTrue(d["required"]) }

func (t hostNodes) start(_ context.Context, in *guest, spec *box.Spec) (later bool, err error) {
	nodes, err := t.find(in)
	if errors.Is(err, kiln.NotFound) && t.mayMiss(in.keys) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, n := range nodes {
		m, err := t.mount(in, n)
		if err != nil {
			return false, err
		}
		in.note(nodeNote+n.Path, deviceOf(n).String())
		spec.Mounts, spec.Devices = append(spec.Mounts, m), append(spec.Devices, deviceOf(n))
	}
	return false, nil
}

// What is noted of each node: which device it is, and the mount that attach made of it.
const (
	nodeNote  = "node "
	nodeMount = "mount "
)

func deviceOf(n hardware.Node) box.Device {
	return box.Device{Block: n.Block, Major: n.Major, Minor: n.Minor}
}

func (t hostNodes) mount(in *guest, n hardware.Node) (box.Mount, error) {
	return in.makeNode(in.mountName()+" "+n.Path, t.path(in, n.Path), n.Path, deviceOf(n))
}

// path is where the node is made that the instance sees, on this host.
func (hostNodes) path(in *guest, target string) string {
	return filepath.Join(filepath.Dir(in.nodePath()), "nodes."+url.PathEscape(in.device), url.PathEscape(target))
}

func (t hostNodes) add(ctx context.Context, in *guest) error {
	nodes, err := t.find(in)
	if errors.Is(err, kiln.NotFound) && t.mayMiss(in.keys) {
		in.say("%v; it is given to the instance when it comes", err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := t.addNode(ctx, in, n); err != nil {
			return errors.Join(err, t.remove(ctx, in))
		}
	}
	return nil
}

func (t hostNodes) addNode(ctx context.Context, in *guest, n hardware.Node) error {
	m, err := t.mount(in, n)
	if err != nil {
		return err
	}
	in.note(nodeNote+n.Path, deviceOf(n).String())
	if err := in.live.box.AllowDevice(ctx, deviceOf(n)); err != nil {
		return err
	}
	m.Name = "" // errors name the device
	id, err := in.live.box.Attach(ctx, m)
	if err != nil {
		return errors.Join(err, t.forget(ctx, in, n.Path))
	}
	in.note(nodeMount+n.Path, strconv.FormatUint(id, 10))
	return nil
}

func (t hostNodes) remove(ctx context.Context, in *guest) error {
	var errs []error
	for _, path := range notedNodes(in.notes) {
		errs = append(errs, t.removeNode(ctx, in, path))
	}
	return errors.Join(errs...)
}

// notedNodes are the paths of the nodes that an instance has of a device.
func notedNodes(notes map[string]string) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(notes)) {
		if path, ok := strings.CutPrefix(key, nodeNote); ok {
			list = append(list, path)
		}
	}
	return list
}

func (t hostNodes) removeNode(ctx context.Context, in *guest, path string) error {
	id, _ := strconv.ParseUint(in.notes[nodeMount+path], 10, 64)
	busy, err := in.live.box.Detach(ctx, in.mountName()+" "+path, id, true)
	if err != nil {
		return err
	}
	if busy {
		in.say("processes of the instance still have %s open; they can't use it any more once they close it", path)
	}
	return t.forget(ctx, in, path)
}

// forget takes the right to use a node, and its notes. The node that was made for it goes,
// and the notes stay when that fails.
func (t hostNodes) forget(ctx context.Context, in *guest, path string) error {
	device := in.notes[nodeNote+path]
	delete(in.notes, nodeNote+path)
	if err := errors.Join(in.deny(ctx, device), removeIfThere(t.path(in, path))); err != nil {
		in.note(nodeNote+path, device)
		return err
	}
	delete(in.notes, nodeMount+path)
	_ = os.Remove(filepath.Dir(t.path(in, path))) // unless there are others
	return nil
}

// follow gives an instance what has come of the device, and takes what has gone.
func (t hostNodes) follow(ctx context.Context, in *guest) error {
	nodes, err := t.find(in)
	if err != nil && !errors.Is(err, kiln.NotFound) {
		return err
	}
	there := map[string]hardware.Node{}
	for _, n := range nodes {
		there[n.Path] = n
	}
	var errs []error
	for _, path := range notedNodes(in.notes) {
		n, stays := there[path]
		if stays && deviceOf(n).String() == in.notes[nodeNote+path] {
			delete(there, path)
			continue
		}
		errs = append(errs, t.removeNode(ctx, in, path))
	}
	for _, path := range slices.Sorted(maps.Keys(there)) {
		errs = append(errs, t.addNode(ctx, in, there[path]))
	}
	return errors.Join(errs...)
}

// A following device changes with the hardware of this host.
type following interface {
	follow(ctx context.Context, in *guest) error
}

// followHardware makes a device that an instance has what the hardware is now.
func (s *Set) followHardware(ctx context.Context, i Instance, l *live, p *plugs, name string) error {
	has := p.Now[name]
	t, ok := deviceTypes()[has.Device["type"]].(following)
	if !ok {
		return nil
	}
	others := maps.Clone(p.Now)
	delete(others, name) // its own notes change
	in := &guest{Instance: i, set: s, live: l, device: name, keys: has.Device, notes: maps.Clone(has.Notes),
		others: others}
	err := t.follow(ctx, in)
	p.Now[name] = plugged{Device: has.Device, Notes: in.notes}
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "device %q of instance %q: %w", name, i.Name, err)
	}
	return nil
}

// HardwareChanged gives the instances that run what has come of the hardware that their
// devices name, and takes what has gone. What couldn't be is an error; the others have theirs
// all the same.
func (s *Set) HardwareChanged(ctx context.Context) error {
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range list {
		l := s.runs(i.Options[UUIDKey])
		if l == nil || !hasFollowing(i.ExpandedDevices) {
			continue
		}
		in, err := s.in(ctx, i.Project)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.mend(in, i.Name, l)...)
	}
	return errors.Join(errs...)
}

func hasFollowing(devices map[string]map[string]string) bool {
	for _, d := range devices {
		if _, ok := deviceTypes()[d["type"]].(following); ok {
			return true
		}
	}
	return false
}

// hardware is the host that devices are looked for on.
func (s *Set) hardware() hardware.Root {
	if s.Hardware == "" {
		return hardware.Host
	}
	return s.Hardware
}
