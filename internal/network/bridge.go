package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// routerAddr is what every bridge has: one without ports has no link-local address of
// its own, which router advertisements are sent from.
const routerAddr = "fe80::1/64"

// label marks an interface of this host as a network's; that without a name begins the
// labels of all of an owner's.
func (n Network) label(owner string) string { return "kiln " + owner + " " + n.Name }

// Owns reports whether an interface of this host is the network's of one owner.
func (n Network) Owns(owner string) bool {
	link, err := netlink.LinkByName(n.Bridge)
	return err == nil && link.Attrs().Alias == n.label(owner)
}

// FreeInterface gives the name of the interface that is the network's, or else one that
// doesn't exist: the network's own name, or one like it.
func (n Network) FreeInterface(owner string) (string, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return "", err
	}
	for _, l := range all {
		if l.Attrs().Alias == n.label(owner) {
			return l.Attrs().Name, nil
		}
	}
	base := strings.TrimRight(n.Name, "0123456789")
	for i := range 1000 {
		try := n
		if try.Bridge = n.Name; i > 0 {
			try.Bridge = fmt.Sprintf("%.11s%d", base, i)
		}
		_, err := netlink.LinkByName(try.Bridge)
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) {
			return try.Bridge, nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", kiln.Errorf(kiln.Conflict, "this host has too many interfaces with names like %s", n.Name)
}

// Up makes the bridge with its addresses, has the host forward what comes from it, and
// sets its NAT. What is there already stays. The owner tells networks of different
// daemons apart. Errors: Conflict when the interface is somebody else's, Unsupported
// when the kernel or missing rights forbid networks.
func (n Network) Up(owner string) error {
	return n.explain("make", n.up(owner))
}

// explain makes an error of the kernel one of a network, with its kind.
func (n Network) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, errno := range []error{unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.EROFS, unix.EAFNOSUPPORT,
		unix.EPROTONOSUPPORT} {
		if errors.Is(err, errno) {
			return kiln.Errorf(kiln.Unsupported, "network %q: this host doesn't let kiln %s networks (%w); the daemon needs "+
				"CAP_NET_ADMIN, and the kernel bridges, veth and nftables", n.Name, what, err)
		}
	}
	return kiln.Errorf(kiln.KindOf(err), "network %q: %w", n.Name, err)
}

func (n Network) up(owner string) error {
	bridge, err := n.link(owner)
	if err != nil {
		return err
	}
	for _, setting := range []string{"accept_ra", "autoconf"} { // what instances advertise isn't for the host
		path := filepath.Join("/proc/sys/net/ipv6/conf", n.Bridge, setting)
		if err := os.WriteFile(path, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	want := []netip.Prefix{}
	if n.IPv4.IsValid() {
		want = append(want, n.IPv4)
	}
	if n.IPv6.IsValid() {
		want = append(want, n.IPv6, netip.MustParsePrefix(routerAddr))
	}
	if err := setAddresses(bridge, want); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("switch %s on: %w", n.Bridge, err)
	}
	if err := n.forward(); err != nil {
		return err
	}
	if len(n.Forwards) > 0 {
		hairpins(bridge)
	}
	return n.firewall()
}

// hairpins has the ports of a bridge take back what they sent: where the firewall sees what
// is bridged (bridge-nf-call-iptables), an instance reaches itself by an address of the host
// only so. One that goes meanwhile needs none.
func hairpins(bridge netlink.Link) {
	links, err := netlink.LinkList()
	if err != nil {
		return
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			_ = netlink.LinkSetHairpin(l, true)
		}
	}
}

// link makes the bridge if it isn't there.
func (n Network) link(owner string) (netlink.Link, error) {
	link, err := netlink.LinkByName(n.Bridge)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.Bridge
		// Without one of its own, a bridge takes that of its first port, and changes it.
		attrs.HardwareAddr = MAC(owner, n.Name)
		if n.MTU > 0 {
			attrs.MTU = n.MTU
		}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("make the bridge %s: %w", n.Bridge, err)
		}
		if link, err = netlink.LinkByName(n.Bridge); err == nil {
			err = netlink.LinkSetAlias(link, n.label(owner))
		}
		return link, err
	}
	if err != nil {
		return nil, err
	}
	if link.Attrs().Alias != n.label(owner) {
		return nil, kiln.Errorf(kiln.Conflict, "the interface %s of this host is not kiln's; remove or rename it", n.Bridge)
	}
	if n.MTU > 0 && link.Attrs().MTU != n.MTU {
		err = netlink.LinkSetMTU(link, n.MTU)
	}
	return link, err
}

// setAddresses gives a bridge these addresses and no others.
func setAddresses(link netlink.Link, want []netip.Prefix) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, p := range want {
		wanted[p.String()] = true
	}
	there := map[string]bool{}
	for _, a := range have {
		there[a.IPNet.String()] = true
		if !wanted[a.IPNet.String()] && !a.IP.IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
	}
	for _, p := range want {
		if there[p.String()] {
			continue
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // it is used at once
		}
		err := netlink.AddrAdd(link, a)
		if p.Addr().Is6() && errors.Is(err, unix.EACCES) {
			continue // IPv6 is switched off on this host
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, p, err)
		}
	}
	return nil
}

// forward has the host forward packets. A host that forwards IPv6 doesn't listen to
// router advertisements any more unless it is told to: those interfaces that do now
// go on, so that it doesn't lose its own way out.
func (n Network) forward() error {
	set := func(path, value string) error {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
			return nil
		}
		err := os.WriteFile(path, []byte(value), 0)
		var number syscall.Errno
		if errors.As(err, &number) {
			return fmt.Errorf("have the host forward packets: %w", err)
		}
		return err
	}
	if n.IPv4.IsValid() {
		if err := set("/proc/sys/net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
	}
	const six = "/proc/sys/net/ipv6/conf"
	if b, err := os.ReadFile(six + "/all/forwarding"); !n.IPv6.IsValid() || err != nil ||
		strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	listening, err := filepath.Glob(six + "/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range listening {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == "1" {
			_ = os.WriteFile(path, []byte("2"), 0) // an interface may go meanwhile
		}
	}
	return set(six+"/all/forwarding", "1")
}

// Down removes the bridge and its rules. What isn't there is no error.
func (n Network) Down(owner string) error {
	var errs []error
	for _, f := range []func() error{n.removeFirewall, n.leaveFirewalls, func() error { return n.removeBridge(owner) }} {
		err := f()
		errs = append(errs, err)
		if errors.Is(err, unix.EPERM) { // and so for the others
			break
		}
	}
	return n.explain("remove", errors.Join(errs...))
}

func (n Network) removeBridge(owner string) error {
	link, err := netlink.LinkByName(n.Bridge)
	if err != nil || link.Attrs().Alias != n.label(owner) {
		return nil
	}
	return netlink.LinkDel(link)
}

// HasPorts reports whether anything is connected to a bridge.
func HasPorts(bridge string) bool {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		return false
	}
	all, err := netlink.LinkList()
	return err != nil || slices.ContainsFunc(all, func(l netlink.Link) bool {
		return l.Attrs().MasterIndex == link.Attrs().Index
	})
}

// AddressesOf gives the addresses of a bridge that a network can have: the first of each
// version of IP that isn't for the link only. Not valid: it has none.
func AddressesOf(bridge string) (four, six netip.Prefix) {
	i, err := Look(bridge)
	if err != nil {
		return four, six
	}
	for _, a := range i.Addresses {
		ip, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		switch p := netip.PrefixFrom(ip.Unmap(), bits); {
		case p.Addr().IsLinkLocalUnicast():
		case p.Addr().Is4() && !four.IsValid():
			four = p
		case p.Addr().Is6() && !six.IsValid():
			six = p
		}
	}
	return four, six
}

// IsBridge says whether an interface of this host is a bridge. Errors: NotFound, Invalid.
func IsBridge(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return kiln.Errorf(kiln.NotFound, "this host has no interface %q", name)
	}
	if link.Type() != "bridge" && link.Type() != "openvswitch" {
		return kiln.Errorf(kiln.Invalid, "the interface %q of this host is not a bridge", name)
	}
	return nil
}

// An Interface is one of this host.
type Interface struct {
	net.Interface
	Kind      string // "bridge", "physical", "loopback", or what else the kernel calls it
	Addresses []net.IPNet
	// since it was made
	BytesIn, BytesOut, PacketsIn, PacketsOut uint64
}

// Look looks at an interface of this host. The error is NotFound.
func Look(name string) (Interface, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return Interface{}, kiln.Errorf(kiln.NotFound, "this host has no interface %q", name)
	}
	ifi, err := net.InterfaceByIndex(link.Attrs().Index)
	if err != nil {
		return Interface{}, err
	}
	i := Interface{Interface: *ifi, Kind: link.Type()}
	switch {
	case ifi.Flags&net.FlagLoopback != 0:
		i.Kind = "loopback"
	case i.Kind == "device":
		i.Kind = "physical"
	}
	if st := link.Attrs().Statistics; st != nil {
		i.BytesIn, i.BytesOut, i.PacketsIn, i.PacketsOut = st.RxBytes, st.TxBytes, st.RxPackets, st.TxPackets
	}
	addresses, err := ifi.Addrs()
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok {
			i.Addresses = append(i.Addresses, *ip)
		}
	}
	return i, err
}
