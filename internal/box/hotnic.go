package box

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/thread"
)

// network opens the namespace of the container's network.
func (b *Box) network() (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", b.InitPID()))
	if err != nil {
		return nil, kiln.Errorf(kiln.Conflict, "the container doesn't run any more")
	}
	init, _, err := b.InitProcess()
	if err == nil {
		defer init.Close()
		if exited(init.Fd()) { // then it may be another process's
			err = kiln.Errorf(kiln.Conflict, "the container doesn't run any more")
		}
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// within calls f on a thread that is in a network namespace.
func within(ns *os.File, f func() error) error {
	return thread.Run(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// AddNic gives the container an interface while it runs. A default route is added where
// there is none. Errors: NotFound without the parent, Conflict when the name is taken on
// either side, or the container doesn't run.
func (b *Box) AddNic(n Nic) error {
	ns, err := b.network()
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.Name, n.MTU
	if n.Parent != "" {
		parent, err := netlink.LinkByName(n.Parent)
		if err != nil {
			return kiln.Errorf(kiln.NotFound, "this host has no interface %q", n.Parent)
		}
		attrs.ParentIndex = parent.Attrs().Index
	}
	if n.MAC != "" {
		if attrs.HardwareAddr, err = net.ParseMAC(n.MAC); err != nil {
			return err
		}
	}
	attrs.Namespace = netlink.NsFd(int(ns.Fd()))
	switch n.Kind {
	case Pair:
		err = n.addPair(attrs, ownAlias(b.state.ID))
	case MACVLAN:
		err = netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	case Physical:
		err = n.move(ns)
	}
	if errors.Is(err, unix.EEXIST) {
		return kiln.Errorf(kiln.Conflict, "the instance has an interface %q, or the host one called %q; take another name",
			n.Name, n.HostName)
	}
	if err != nil {
		return fmt.Errorf("make the interface %s: %w", n.Name, err)
	}
	if err := within(ns, n.configure); err != nil {
		return errors.Join(fmt.Errorf("set the interface %s up: %w", n.Name, err), b.RemoveNic(n))
	}
	return nil
}

// ownAlias marks the host's end of a pair that a container got while it ran: liblxc doesn't
// remove it with the container.
func ownAlias(id string) string { return "kiln " + id }

// pairTime is how long the kernel may take to remove the pairs of a container that ended.
const pairTime = 2 * time.Second

// CheckHostName reports whether the host's end of a new pair of a container may have a name:
// no other interface has it. That of the last run of a container that starts, which has
// the id, may take a moment to go; one that runs already is given as "". The error is
// Conflict.
func CheckHostName(ctx context.Context, id, name string) error {
	for end := time.Now().Add(pairTime); ; {
		link, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for the host's interface %s: %w", name, err)
		}
		alias := link.Attrs().Alias
		if link.Type() == "veth" && (alias == standIn || id != "" && alias == ownAlias(id)) {
			return nil
		}
		if link.Type() != "veth" || id == "" || !time.Now().Before(end) || ctx.Err() != nil {
			return kiln.Errorf(kiln.Conflict, "this host has an interface %q already; take another host_name", name)
		}
		time.Sleep(initPoll)
	}
}

// clearPairs removes what is left of a container's interfaces when it is started again: a
// pair goes only some time after the namespace that the other end was in.
func clearPairs(ctx context.Context, s Spec) {
	end := time.Now().Add(pairTime)
	for _, n := range s.Nics {
		for n.Kind == Pair && ctx.Err() == nil && time.Now().Before(end) {
			link, err := netlink.LinkByName(n.HostName)
			if err != nil || link.Type() != "veth" {
				break // it is gone, or another's: liblxc says so
			}
			if alias := link.Attrs().Alias; alias == standIn || alias == ownAlias(s.ID) {
				_ = netlink.LinkDel(link)
				continue
			}
			time.Sleep(initPoll)
		}
	}
}

// standIn is the alias of what has the name of an interface that was taken away.
const standIn = "kiln stand-in"

// standIn makes an interface that has the name of a pair that was taken away: liblxc can't
// reboot a container when one that it started with isn't there to be removed.
func (n Nic) standIn() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.HostName
	pair := netlink.NewVeth(attrs)
	pair.PeerName = n.HostName[:min(len(n.HostName), 14)] + "-"
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	link, err := netlink.LinkByName(n.HostName)
	if err != nil {
		return err
	}
	return netlink.LinkSetAlias(link, standIn)
}

// addPair makes a pair, with one end in the container and the other, which has the alias,
// on the bridge.
func (n Nic) addPair(inside netlink.LinkAttrs, alias string) error {
	if link, err := netlink.LinkByName(n.HostName); err == nil && link.Attrs().Alias == standIn {
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = n.HostName, n.MTU, inside.ParentIndex, net.FlagUp
	if mac := inside.HardwareAddr; len(mac) == 6 {
		// The highest there are: a bridge takes the lowest of its ports.
		attrs.HardwareAddr = net.HardwareAddr{0xfe, mac[1], mac[2], mac[3], mac[4], mac[5]}
	}
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerMTU = n.Name, inside.HardwareAddr, uint32(n.MTU)
	pair.PeerNamespace = inside.Namespace
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	link, err := netlink.LinkByName(n.HostName)
	if err != nil {
		return err
	}
	return netlink.LinkSetAlias(link, alias)
}

// move gives an interface of the host away.
func (n Nic) move(ns *os.File) error {
	link, err := netlink.LinkByName(n.Parent)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetNsFd(link, int(ns.Fd()))); err != nil {
		return err
	}
	return within(ns, func() error {
		link, err := netlink.LinkByName(n.Parent)
		if err != nil {
			return err
		}
		mac, _ := net.ParseMAC(n.MAC)
		if mac != nil {
			err = netlink.LinkSetHardwareAddr(link, mac)
		}
		if n.MTU > 0 {
			err = errors.Join(err, netlink.LinkSetMTU(link, n.MTU))
		}
		return errors.Join(err, netlink.LinkSetName(link, n.Name))
	})
}

// configure sets an interface up, in the container.
func (n Nic) configure() error {
	link, err := netlink.LinkByName(n.Name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
		if !p.IsValid() {
			continue
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) &&
			!(p.Addr().Is6() && errors.Is(err, unix.EACCES)) { // IPv6 is off in there
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	if !n.Gateway.IsValid() {
		return nil
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return nil
		}
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.Gateway.AsSlice()})
}

// startedWith reports whether the container was started with a pair of that name.
func (b *Box) startedWith(n Nic) bool { return slices.Contains(b.state.Pairs, n.HostName) }

// RemoveNic takes an interface from the container while it runs, whatever it is called
// in there by now. One that isn't there is as good.
func (b *Box) RemoveNic(n Nic) error {
	var none netlink.LinkNotFoundError
	if n.Kind == Pair {
		link, err := netlink.LinkByName(n.HostName)
		if errors.As(err, &none) {
			return nil
		}
		if err == nil && link.Type() != "veth" {
			err = kiln.Errorf(kiln.Conflict, "the host's interface %q isn't the instance's", n.HostName)
		}
		if err == nil && link.Attrs().Alias != standIn {
			err = netlink.LinkDel(link)
			if err == nil && b.startedWith(n) {
				err = n.standIn()
			}
		}
		return err
	}
	ns, err := b.network()
	if err != nil {
		return err
	}
	defer ns.Close()
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	return within(ns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			a := link.Attrs()
			if a.Name != n.Name && (n.MAC == "" || !strings.EqualFold(a.HardwareAddr.String(), n.MAC)) {
				continue
			}
			if n.Kind != Physical {
				if link.Type() == string(n.Kind) {
					return netlink.LinkDel(link)
				}
				continue
			}
			return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, n.Parent),
				netlink.LinkSetNsFd(link, int(host.Fd())))
		}
		return nil
	})
}
