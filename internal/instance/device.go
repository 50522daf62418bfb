package instance

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// A deviceType is what kiln knows of one type of device. Each has a file of its own.
type deviceType interface {
	// check says whether keys and values can be a device of any instance. This host
	// isn't looked at. Errors: Invalid, Unsupported.
	check(d map[string]string) error
	// start adds a device to what an instance is started with. It is there before the
	// first process then, and comes back by itself at a reboot from inside. One that
	// comes later is added once the instance runs, and after each reboot.
	start(ctx context.Context, in *guest, spec *box.Spec) (later bool, err error)
	// add gives a device to an instance that runs, and notes what remove needs.
	add(ctx context.Context, in *guest) error
	// remove takes a device from an instance that runs. One that isn't there is as good.
	remove(ctx context.Context, in *guest) error
}

// An outliving device has something on this host that doesn't end with the container.
type outliving interface {
	// ended is called when the instance has ended.
	ended(ctx context.Context, in *guest) error
}

// A changeable device can be changed while it is there.
type changeable interface {
	// change makes a device that was with other keys as it is to be now; not done: it has to
	// be removed and added.
	change(ctx context.Context, in *guest, was map[string]string) (done bool, err error)
}

// A guest is a device in the instance that it is of.
type guest struct {
	Instance
	set    *Set
	live   *live // nil while the instance starts
	device string
	keys   map[string]string
	notes  map[string]string // what was noted when it was added
	others map[string]plugged
	nics   map[string]box.Nic // of an instance that starts
	said   []string
}

// note keeps something for remove.
func (g *guest) note(key, value string) {
	if g.notes == nil {
		g.notes = map[string]string{}
	}
	g.notes[key] = value
}

// mountName names what is mounted for a device.
func (g *guest) mountName() string { return "device " + strconv.Quote(g.device) }

// say tells whoever makes a change of more than success.
func (g *guest) say(format string, args ...any) {
	g.said = append(g.said, fmt.Sprintf("device %q: %s", g.device, fmt.Sprintf(format, args...)))
}

func deviceTypes() map[string]deviceType {
	return map[string]deviceType{"disk": diskDevice{}, "nic": nicDevice{}, "proxy": proxyDevice{},
		"unix-block": unixDevice{block: true}, "unix-char": unixDevice{}, "gpu": gpuDevice(), "usb": usbDevice(),
		"unix-hotplug": hotplugDevice()}
}

// foreignTypes are those of LXD's and Incus's manuals that kiln doesn't have.
var foreignTypes = []string{"infiniband", "tpm", "pci"}

// typeNames are what a device can be, for errors.
func typeNames() string {
	names := slices.Sorted(maps.Keys(deviceTypes()))
	return strings.Join(names, ", ") + " and none"
}

// CheckDevices says whether devices can be an instance's or a profile's. The
// errors are Invalid, TooLarge, and Unsupported for types that LXD knows and kiln doesn't.
func CheckDevices(devices map[string]map[string]string) error {
	if err := checkDeviceBounds(devices); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if name == "" || len(name) > 64 || strings.ContainsFunc(name, unicode.IsControl) {
			return kiln.Errorf(kiln.Invalid, "%q can't name a device: a name has 1 to 64 characters, and no control characters",
				name)
		}
		for k, v := range devices[name] {
			if strings.ContainsFunc(k+v, unicode.IsControl) {
				return kiln.Errorf(kiln.Invalid, "Device %q: %q=%q has control characters; leave them out", name, k, v)
			}
		}
		if err := checkDevice(devices[name]); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "Device %q: %w", name, err)
		}
	}
	return nil
}

func checkDevice(d map[string]string) error {
	name := d["type"]
	t, known := deviceTypes()[name]
	switch {
	case known:
		return t.check(d)
	case name == "none":
		return nil
	case name == "":
		return kiln.Errorf(kiln.Invalid, "the type is missing")
	case slices.Contains(foreignTypes, name):
		return kiln.Errorf(kiln.Unsupported, "devices of type %q are not supported by this version of kiln; it has %s", name,
			typeNames())
	}
	return kiln.Errorf(kiln.Invalid, "%q is not a type of device%s", name,
		kiln.DidYouMean(name, append(slices.Collect(maps.Keys(deviceTypes())), "none")))
}

// checkKeys refuses the keys that a device doesn't have: those of unsupported are LXD's,
// each with the reason.
func checkKeys(what string, d map[string]string, known []string, unsupported map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(d)) {
		reason, foreign := unsupported[key]
		switch {
		case key == "type" || slices.Contains(known, key):
		case foreign && reason == "":
			return kiln.Errorf(kiln.Unsupported, "the key %q of a %s is not supported by this version of kiln; leave it out",
				key, what)
		case foreign:
			return kiln.Errorf(kiln.Unsupported, "the key %q of a %s is not supported: %s", key, what, reason)
		default:
			return kiln.Errorf(kiln.Invalid, "a %s has no %q%s", what, key, kiln.DidYouMean(key, known))
		}
	}
	return nil
}

// isRoot reports whether a device is the root disk, which is there as long as the
// instance is.
func isRoot(d map[string]string) bool { return d["type"] == "disk" && d["path"] == "/" }

// hasRoot reports whether one of the devices is the root disk.
func hasRoot(devices map[string]map[string]string) bool {
	for _, d := range devices {
		if isRoot(d) {
			return true
		}
	}
	return false
}

// inStartOrder gives the names of devices in the order in which an instance gets them: disks
// first, one at a path below another's after it, and what may be on them then.
func inStartOrder(devices map[string]map[string]string) []string {
	return slices.SortedFunc(maps.Keys(devices), func(a, b string) int {
		key := func(name string) (group int, at string) {
			if d := devices[name]; d["type"] == "disk" {
				return 0, path.Clean("/" + d["path"])
			}
			return 1, ""
		}
		ga, pa := key(a)
		gb, pb := key(b)
		return cmp.Or(cmp.Compare(ga, gb), strings.Compare(pa, pb), strings.Compare(a, b))
	})
}

// startDevices completes what an instance is started with by its devices, and says which
// of them come later.
func (s *Set) startDevices(ctx context.Context, i Instance, nics map[string]box.Nic, spec *box.Spec) (now,
	later map[string]plugged, err error) {
	now, later = map[string]plugged{}, map[string]plugged{}
	for _, name := range inStartOrder(i.ExpandedDevices) {
		d := i.ExpandedDevices[name]
		t, ok := deviceTypes()[d["type"]]
		if !ok || isRoot(d) {
			continue
		}
		in := &guest{Instance: i, set: s, device: name, keys: d, nics: nics}
		after, err := t.start(ctx, in, spec)
		if err != nil {
			return nil, nil, kiln.Errorf(kiln.KindOf(err), "device %q: %w", name, err)
		}
		if after {
			later[name] = plugged{Device: d}
		} else {
			now[name] = plugged{Device: d, Notes: in.notes}
		}
	}
	return now, later, nil
}
