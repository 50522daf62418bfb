package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Networks are what interfaces of instances are connected to.
type Networks interface {
	// Check says whether an interface can be connected. Errors: NotFound, Invalid.
	Check(ctx context.Context, d map[string]string) error
	// Connect makes what an interface of an instance is to be connected to, if it isn't
	// there, and gives it its addresses. A Resolver is given where names can be asked for.
	// Errors: those of Check, Conflict, Unsupported when this host can't have networks.
	Connect(ctx context.Context, i Instance, device string, d map[string]string) (box.Nic, Resolver, error)
	// Forget gives up the addresses of other devices of an instance than these.
	Forget(ctx context.Context, instance string, but map[string]bool) error
}

// A Resolver answers the names of instances, and others.
type Resolver struct {
	Address netip.Addr // not valid: there is none
	Domain  string     // of the instances
}

// nicName is what an interface in an instance can be called.
var nicName = regexp.MustCompile(`^[a-zA-Z0-9][-_.a-zA-Z0-9]{0,14}$`)

// nicDevice is an interface of the network.
type nicDevice struct{}

func (nicDevice) start(_ context.Context, in *guest, spec *box.Spec) (later bool, err error) {
	if n, ok := in.nics[in.device]; ok {
		spec.Nics = append(spec.Nics, n)
	}
	return false, nil
}

func (nicDevice) add(context.Context, *guest) error {
	return kiln.Errorf(kiln.Conflict, "a nic can't be added while the instance runs; stop it first; nothing was changed")
}

func (nicDevice) remove(context.Context, *guest) error {
	return kiln.Errorf(kiln.Conflict, "a nic can't be changed while the instance runs; stop it first; nothing was changed")
}

// check says whether a device can be an interface of any instance.
func (nicDevice) check(d map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(d)) {
		switch key {
		case "type", "nictype", "network", "parent", "name", "hwaddr", "mtu", "host_name", "ipv4.address", "ipv6.address":
		case "boot.priority", "ipv4.routes", "ipv6.routes", "ipv4.routes.external", "ipv6.routes.external", "queue.tx.length",
			"limits.egress", "limits.ingress", "limits.max", "limits.priority", "maas.subnet.ipv4", "maas.subnet.ipv6",
			"security.mac_filtering", "security.ipv4_filtering", "security.ipv6_filtering", "security.port_isolation", "vlan",
			"vlan.tagged", "gvrp", "mode", "acceleration", "security.acls":
			return kiln.Errorf(kiln.Unsupported, "the key %q of a nic is not supported by this version of kiln; leave it out",
				key)
		default:
			return kiln.Errorf(kiln.Invalid, "a nic has no %q", key)
		}
	}
	switch t := d["nictype"]; {
	case t != "" && t != "bridged" && slices.Contains([]string{"macvlan", "ipvlan", "p2p", "physical", "sriov", "ovn",
		"routed"}, t):
		return kiln.Errorf(kiln.Unsupported, "nics of type %q are not supported by this version of kiln; it has bridged", t)
	case t != "" && t != "bridged":
		return kiln.Errorf(kiln.Invalid, "%q is not a type of nic; there is bridged", t)
	case d["network"] != "" && (d["parent"] != "" || t != ""):
		return kiln.Errorf(kiln.Invalid, "a nic has a network, or the nictype bridged and a parent, not both")
	case d["network"] == "" && d["parent"] == "":
		return kiln.Errorf(kiln.Invalid, "a nic needs a network (see: kiln network list), or the nictype bridged and a "+
			"bridge of the host as its parent")
	case d["network"] == "" && t == "":
		return kiln.Errorf(kiln.Invalid, "a nic with a parent needs nictype=bridged")
	}
	return checkNicValues(d)
}

func checkNicValues(d map[string]string) error {
	for _, key := range []string{"name", "host_name", "parent", "network"} {
		if v := d[key]; v != "" && (!nicName.MatchString(v) || v == "lo") {
			return kiln.Errorf(kiln.Invalid, "%s %q is not a name of up to 15 letters, digits and - _ .", key, v)
		}
	}
	if v := d["hwaddr"]; v != "" {
		if mac, err := net.ParseMAC(v); err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
			return kiln.Errorf(kiln.Invalid, "hwaddr %q is not an address of one interface such as 00:16:3e:12:34:56", v)
		}
	}
	if v := d["mtu"]; v != "" {
		if n, err := strconv.Atoi(v); err != nil || n < 1280 || n > 65535 {
			return kiln.Errorf(kiln.Invalid, "mtu %q is not a number of bytes from 1280 to 65535", v)
		}
	}
	for key, four := range map[string]bool{"ipv4.address": true, "ipv6.address": false} {
		v := d[key]
		if v == "" {
			continue
		}
		if a, err := netip.ParseAddr(v); err != nil || a.Is4() != four || a.Zone() != "" {
			return kiln.Errorf(kiln.Invalid, "%s %q is not an address of that version of IP", key, v)
		}
		if d["network"] == "" {
			return kiln.Errorf(kiln.Invalid, "%s needs a network of kiln's: it gives no addresses on a bridge of the host", key)
		}
	}
	return nil
}

// checkNetworks says whether interfaces can be connected, and together.
func (s *Set) checkNetworks(ctx context.Context, devices map[string]map[string]string) error {
	names := map[string]string{}
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		d := devices[device]
		if d["type"] != "nic" {
			continue
		}
		if other := names[d["name"]]; other != "" && d["name"] != "" {
			return kiln.Errorf(kiln.Invalid, "the devices %q and %q have the same name inside, %q", other, device, d["name"])
		}
		names[d["name"]] = device
		if s.Networks == nil {
			continue
		}
		if err := s.Networks.Check(ctx, d); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "Device %q: %w", device, err)
		}
	}
	return nil
}

// connect gives the interfaces of an instance that starts, by device, and the first
// resolver on them. Where the host can't have networks it starts without.
func (s *Set) connect(ctx context.Context, i Instance) (nics map[string]box.Nic, first Resolver, err error) {
	nics = map[string]box.Nic{}
	if s.Networks == nil {
		return nil, first, nil
	}
	used, keep := map[string]bool{}, map[string]bool{}
	var devices []string
	gateway := false
	for _, device := range slices.Sorted(maps.Keys(i.ExpandedDevices)) {
		if d := i.ExpandedDevices[device]; d["type"] == "nic" {
			devices = append(devices, device)
			used[d["name"]], keep[device] = true, true
		}
	}
	if err := s.Networks.Forget(ctx, i.Name, keep); err != nil {
		return nil, first, err
	}
	for _, device := range devices {
		d := i.ExpandedDevices[device]
		n, r, err := s.Networks.Connect(ctx, i, device, d)
		if errors.Is(err, kiln.Unsupported) {
			s.warn("start instance "+strconv.Quote(i.Name)+" without the interface "+strconv.Quote(device), err)
			continue
		}
		if err != nil {
			return nil, first, kiln.Errorf(kiln.KindOf(err), "device %q: %w", device, err)
		}
		n.Name = d["name"]
		for k := 0; n.Name == ""; k++ {
			if name := fmt.Sprintf("eth%d", k); !used[name] {
				n.Name, used[name] = name, true
			}
		}
		if n.Gateway.IsValid() && gateway {
			n.Gateway = netip.Addr{} // there is one way out, by the first
		}
		gateway = gateway || n.Gateway.IsValid()
		if !first.Address.IsValid() {
			first = r
		}
		nics[device] = n
	}
	return nics, first, nil
}

// resolverFile is what tells programs whom to ask for names.
const resolverFile = "etc/resolv.conf"

// writeResolver writes the resolver into an instance that starts for the first time,
// unless its image has a program that does: what is in the file then is the host's that
// the image was built on.
func (s *Set) writeResolver(ctx context.Context, i Instance, vol *volume.Volume, r Resolver) error {
	if i.Options[templateKey] == "" || !r.Address.IsValid() {
		return nil
	}
	mount, err := vol.Mount(ctx, nil)
	if err != nil {
		return err
	}
	defer mount.Close()
	rootfs, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", mount.Fd()))
	if err != nil {
		return err
	}
	defer rootfs.Close()
	fi, err := rootfs.Lstat(resolverFile)
	if err == nil && !fi.Mode().IsRegular() || err != nil && !errors.Is(err, fs.ErrNotExist) || hasResolver(rootfs) {
		return nil // a link is some program's, and a path that leaves the tree nobody's
	}
	if fi, err := rootfs.Stat("etc"); err != nil || !fi.IsDir() {
		return nil
	}
	if err := rootfs.Remove(resolverFile); err != nil && !errors.Is(err, fs.ErrNotExist) { // which may have other names
		return err
	}
	return rootfs.WriteFile(resolverFile, fmt.Appendf(nil, "nameserver %s\nsearch %s\n", r.Address, r.Domain), 0o644)
}

// hasResolver reports whether systemd-resolved is enabled, which keeps the file itself.
func hasResolver(rootfs *os.Root) bool {
	for _, dir := range []string{"sysinit.target.wants", "multi-user.target.wants"} {
		if _, err := rootfs.Lstat("etc/systemd/system/" + dir + "/systemd-resolved.service"); err == nil {
			return true
		}
	}
	return false
}
