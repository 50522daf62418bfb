package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Networks are what interfaces of instances are connected to.
type Networks interface {
	// Check says whether an interface can be connected. Errors: NotFound, Invalid.
	Check(ctx context.Context, d map[string]string) error
	// Use keeps a network, which is named by itself or by its bridge, under its name until
	// the function is called that it gives. The error is Conflict while it is deleted or
	// renamed.
	Use(name string) (release func(), err error)
	// Connect makes what an interface of an instance is to be connected to, if it isn't
	// there, and gives it its addresses. A Resolver is given where names can be asked for.
	// Errors: those of Check, Conflict, Unsupported when this host can't have networks.
	Connect(ctx context.Context, i Instance, device string, d map[string]string) (box.Nic, Resolver, error)
	// Disconnect ends what Connect made that doesn't end with an interface: it gets the
	// name of the host's end. Nothing is as good.
	Disconnect(host string) error
	// Forget gives up the addresses of other devices of an instance than these.
	Forget(ctx context.Context, instance string, but map[string]bool) error
}

// A Resolver answers the names of instances, and others.
type Resolver struct {
	Address netip.Addr // not valid: there is none
	Domain  string     // of the instances; of several, the first first, with spaces between
}

// nicName is what an interface in an instance can be called.
var nicName = regexp.MustCompile(`^[a-zA-Z0-9][-_.a-zA-Z0-9]{0,14}$`)

// nicDevice is an interface of the network.
type nicDevice struct{}

// What is noted of an interface.
const (
	nicNameNote = "name" // inside
	nicHostNote = "host_name"
	nicMACNote  = "hwaddr"
)

func (g *guest) noteNic(n box.Nic) {
	g.note(nicNameNote, n.Name)
	g.note(nicHostNote, n.HostName)
	g.note(nicMACNote, n.MAC)
}

func (nicDevice) start(_ context.Context, in *guest, spec *box.Spec) (later bool, err error) {
	if n, ok := in.nics[in.device]; ok {
		in.noteNic(n)
		spec.Nics = append(spec.Nics, n)
	}
	return false, nil
}

func (nicDevice) add(ctx context.Context, in *guest) error {
	if err := in.set.checkHostName(ctx, "", in.keys); err != nil {
		return err
	}
	name, err := in.nicName(ctx)
	if err != nil {
		return err
	}
	n, _, err := in.set.connectNic(ctx, in.Instance, in.device, in.keys)
	if err != nil {
		return errors.Join(err, in.forgetNic(ctx))
	}
	n.Name = name
	in.noteNic(n)
	if err := in.live.box.AddNic(n); err != nil {
		return errors.Join(err, in.unbound(), in.forgetNic(ctx))
	}
	return nil
}

// checkHostName makes sure that what bounds an interface by its name on the host doesn't
// bound, or free, another one. See box.CheckHostName for the id.
func (s *Set) checkHostName(ctx context.Context, id string, d map[string]string) error {
	if d["host_name"] == "" || NicKind(d) != box.Pair {
		return nil
	}
	if err := s.checkStrayHostName(d); err != nil {
		return err
	}
	return box.CheckHostName(ctx, id, d["host_name"])
}

// ethernet are the names that interfaces get, one after the other.
var ethernet = regexp.MustCompile(`^eth[0-9]{1,3}$`)

// nameInside gives the name that an interface is to have in an instance, "" for the next
// one that is free: whether others come or go, eth1 stays eth1.
func nameInside(device string, all map[string]map[string]string) string {
	d := all[device]
	if d["type"] != "nic" || d["name"] != "" || !ethernet.MatchString(device) {
		return d["name"]
	}
	for _, other := range all {
		if other["type"] == "nic" && other["name"] == device {
			return ""
		}
	}
	return device
}

// nicName gives the name that an interface gets in an instance that runs.
func (g *guest) nicName(ctx context.Context) (string, error) {
	used := map[string]bool{}
	there, err := g.live.box.Network(ctx)
	if err != nil {
		return "", err
	}
	for _, n := range there {
		used[n.Name] = true
	}
	for device := range g.ExpandedDevices {
		if device != g.device {
			used[nameInside(device, g.ExpandedDevices)] = true
		}
	}
	if name := nameInside(g.device, g.ExpandedDevices); name != "" {
		if used[name] {
			return "", kiln.Errorf(kiln.Conflict, "the instance has an interface %q already; take another name", name)
		}
		return name, nil
	}
	for k := 0; ; k++ {
		if name := fmt.Sprintf("eth%d", k); !used[name] {
			return name, nil
		}
	}
}

func (nicDevice) remove(ctx context.Context, in *guest) error {
	n := box.Nic{Kind: NicKind(in.keys), Name: cmp.Or(in.notes[nicNameNote], in.keys["name"], in.device),
		MAC: in.notes[nicMACNote], Parent: in.keys["parent"], HostName: cmp.Or(in.notes[nicHostNote], in.keys["host_name"],
			network.HostName(in.Options[UUIDKey], in.device))}
	return errors.Join(in.live.box.RemoveNic(n), in.unbound(), in.forgetNic(ctx))
}

// forgetNic gives up the addresses of an interface.
func (g *guest) forgetNic(ctx context.Context) error {
	keep := map[string]bool{}
	for device, has := range g.others {
		keep[device] = device != g.device && has.Device["type"] == "nic"
	}
	return g.set.Networks.Forget(ctx, g.Name, keep)
}

// NicKind gives what an interface is to the host.
func NicKind(d map[string]string) box.NicKind {
	switch t := d["nictype"]; t {
	case "macvlan", "physical":
		return box.NicKind(t)
	}
	return box.Pair
}

// keysOfNic are the keys of a type of nic, besides nictype and name.
func keysOfNic(nictype string) []string {
	has := map[string][]string{"macvlan": {"parent", "hwaddr", "mtu"}, "physical": {"parent"},
		"p2p": {"host_name", "hwaddr", "mtu"}}[nictype]
	if has != nil {
		return append(has, "nictype", "name")
	}
	return option.Names(nicKeys())
}

// The keys of what an interface may send, and how much.
const (
	limitIn, limitOut, limitBoth   = "limits.ingress", "limits.egress", "limits.max"
	checkMAC, checkIPv4, checkIPv6 = "security.mac_filtering", "security.ipv4_filtering", "security.ipv6_filtering"
)

// Bounds gives what an interface may send, and how much, but for the addresses. ok: it is
// bounded at all.
func Bounds(d map[string]string) (f network.Filter, needMAC, ok bool, err error) {
	f.CheckIPv4, f.CheckIPv6 = kiln.IsTrue(d[checkIPv4]), kiln.IsTrue(d[checkIPv6])
	needMAC = kiln.IsTrue(d[checkMAC]) || f.CheckIPv4 || f.CheckIPv6
	var errs [2]error
	if v := cmp.Or(d[limitBoth], d[limitIn]); v != "" {
		f.Ingress, errs[0] = network.ParseRate(v)
	}
	if v := cmp.Or(d[limitBoth], d[limitOut]); v != "" {
		f.Egress, errs[1] = network.ParseRate(v)
	}
	return f, needMAC, needMAC || f.Ingress > 0 || f.Egress > 0, cmp.Or(errs[0], errs[1])
}

// checkBounds says whether the keys of bounds can be.
func checkBounds(d map[string]string) error {
	for _, key := range []string{checkMAC, checkIPv4, checkIPv6} {
		if err := checkBool(d[key]); err != nil {
			return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
		}
	}
	if d[limitBoth] != "" && (d[limitIn] != "" || d[limitOut] != "") {
		return kiln.Errorf(kiln.Invalid, "%s is for both ways; leave out %s and %s", limitBoth, limitIn, limitOut)
	}
	f, _, _, err := Bounds(d)
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "limits: %w", err)
	}
	if (f.CheckIPv4 || f.CheckIPv6) && d["network"] == "" {
		return kiln.Errorf(kiln.Invalid, "%s and %s need a network of kiln's, which knows the addresses", checkIPv4,
			checkIPv6)
	}
	return nil
}

// ended removes what holds for a port that is gone.
func (nicDevice) ended(_ context.Context, in *guest) error { return in.unbound() }

func (g *guest) unbound() error { return g.set.unbound(g.keys, g.notes[nicHostNote]) }

// unbound ends what bounds an interface, which has a name on the host; "" is none.
func (s *Set) unbound(d map[string]string, host string) error {
	if _, _, bounded, _ := Bounds(d); !bounded || host == "" {
		return nil
	}
	return s.Networks.Disconnect(host)
}

// change has other bounds hold for an interface that stays.
func (nicDevice) change(ctx context.Context, in *guest, was map[string]string) (done bool, err error) {
	bound := func(key, _ string) bool {
		return slices.Contains([]string{limitIn, limitOut, limitBoth, checkMAC, checkIPv4, checkIPv6}, key)
	}
	now, before := maps.Clone(in.keys), maps.Clone(was)
	maps.DeleteFunc(now, bound)
	maps.DeleteFunc(before, bound)
	if !maps.Equal(now, before) {
		return false, nil
	}
	_, _, err = in.set.connectNic(ctx, in.Instance, in.device, in.keys)
	return true, err
}

// check says whether a device can be an interface of any instance.
func (nicDevice) check(d map[string]string) error {
	t := d["nictype"]
	switch t {
	case "", "bridged", "macvlan", "p2p", "physical":
	case "ipvlan", "sriov", "ovn", "routed":
		return kiln.Errorf(kiln.Unsupported, "nics of type %q are not supported by this version of kiln; it has bridged, "+
			"macvlan, p2p and physical", t)
	default:
		return kiln.Errorf(kiln.Invalid, "%q is not a type of nic; there are bridged, macvlan, p2p and physical", t)
	}
	if err := checkKeys(strings.TrimSpace("nic "+t), d, keysOfNic(t), foreignNicKeys(t)); err != nil {
		return err
	}
	switch {
	case d["network"] != "" && (d["parent"] != "" || t != ""):
		return kiln.Errorf(kiln.Invalid, "a nic has a network, or a nictype and a parent, not both")
	case t == "p2p":
	case d["network"] == "" && d["parent"] == "" && (t == "" || t == "bridged"):
		return kiln.Errorf(kiln.Invalid, "a nic needs a network (see: kiln network list), or the nictype bridged and a "+
			"bridge of the host as its parent")
	case d["network"] == "" && d["parent"] == "":
		return kiln.Errorf(kiln.Invalid, "a nic of type %s needs an interface of this host: parent=", t)
	case d["network"] == "" && t == "":
		return kiln.Errorf(kiln.Invalid, "a nic with a parent needs a nictype, such as bridged")
	}
	if err := checkBounds(d); err != nil {
		return err
	}
	return checkNicValues(d)
}

// foreignNicKeys are those of LXD's manual that kiln doesn't have, with the reason.
func foreignNicKeys(nictype string) map[string]string {
	keys := map[string]string{}
	for _, key := range []string{
		"acceleration", "boot.priority", "gvrp", "host_name", "hwaddr", "ipv4.address", "ipv4.gateway",
		"ipv4.routes", "ipv4.routes.external", "ipv6.address", "ipv6.gateway", "ipv6.routes",
		"ipv6.routes.external", "limits.egress", "limits.ingress", "limits.max", "limits.priority",
		"maas.subnet.ipv4", "maas.subnet.ipv6", "mode", "mtu", "network", "parent", "queue.tx.length",
		"security.acls", "security.ipv4_filtering", "security.ipv6_filtering", "security.mac_filtering",
		"security.port_isolation", "vlan", "vlan.tagged",
	} {
		keys[key] = ""
	}
	if nictype == "physical" {
		why := "the interface is given back as it is"
		keys["hwaddr"], keys["mtu"] = why, why
	}
	return keys
}

func checkNicValues(d map[string]string) error {
	for _, key := range []string{"name", "host_name", "parent", "network"} {
		if v := d[key]; v != "" && (!nicName.MatchString(v) || v == "lo") {
			return kiln.Errorf(kiln.Invalid, "%s %q is not a name of up to 15 letters, digits and - _ .", key, v)
		}
	}
	if v := d["hwaddr"]; v != "" {
		if _, err := parseAddress(v); err != nil {
			return err
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

// UseNetworks keeps the networks that devices name, or their bridges, until the function is
// called that it gives: they are neither deleted nor renamed before a row names them. Whether
// they are there is to be asked after that. The error is Conflict.
func UseNetworks(n Networks, devices map[string]map[string]string) (release func(), err error) {
	return keepEach(devices, func(d map[string]string) (func(), error) {
		if name := cmp.Or(d["network"], d["parent"]); n != nil && d["type"] == "nic" && name != "" {
			return n.Use(name)
		}
		return nil, nil
	})
}

// useNetworks is UseNetworks and checkNetworks.
func (s *Set) useNetworks(ctx context.Context, devices map[string]map[string]string) (release func(), err error) {
	if release, err = UseNetworks(s.Networks, devices); err != nil {
		return nil, err
	}
	if err := s.checkNetworks(ctx, devices); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// checkNetworks says whether interfaces can be connected, and together.
func (s *Set) checkNetworks(ctx context.Context, devices map[string]map[string]string) error {
	names := map[string]string{}
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		d := devices[device]
		if d["type"] != "nic" {
			continue
		}
		name := nameInside(device, devices)
		if other := names[name]; other != "" && name != "" {
			return kiln.Errorf(kiln.Invalid, "the devices %q and %q have the same name inside, %q", other, device, name)
		}
		names[name] = device
		if s.Networks == nil {
			continue
		}
		if err := s.Networks.Check(ctx, d); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "Device %q: %w", device, err)
		}
	}
	return nil
}

// disconnect ends what bounds interfaces of an instance that didn't start.
func (s *Set) disconnect(i Instance, nics map[string]box.Nic) error {
	var errs []error
	for device, n := range nics {
		errs = append(errs, s.unbound(i.ExpandedDevices[device], n.HostName))
	}
	return errors.Join(errs...)
}

// connect gives the interfaces of an instance that starts, by device, and the first
// resolver on them. Where the host can't have networks it starts without. On errors it gives
// those that are to be disconnected.
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
			used[nameInside(device, i.ExpandedDevices)], keep[device] = true, true
		}
	}
	if err := s.Networks.Forget(ctx, i.Name, keep); err != nil {
		return nil, first, err
	}
	for _, device := range devices {
		d := i.ExpandedDevices[device]
		if err := s.checkHostName(ctx, i.Options[UUIDKey], d); err != nil {
			return nics, first, kiln.Errorf(kiln.KindOf(err), "device %q: %w", device, err)
		}
		n, r, err := s.connectNic(ctx, i, device, d)
		if errors.Is(err, kiln.Unsupported) {
			s.warn("start instance "+strconv.Quote(i.Name)+" without the interface "+strconv.Quote(device), err)
			continue
		}
		if err != nil {
			return nics, first, kiln.Errorf(kiln.KindOf(err), "device %q: %w", device, err)
		}
		n.Name = nameInside(device, i.ExpandedDevices)
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
	if i.Options[TemplateKey] == "" || !r.Address.IsValid() {
		return nil
	}
	mount, err := vol.MountToChange(ctx, nil)
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
