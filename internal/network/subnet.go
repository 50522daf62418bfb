package network

import (
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// InUse gives the IPv4 subnets that this host has addresses in or routes to, in any
// table: VPNs use their own. Default routes aren't among them.
func InUse() ([]netip.Prefix, error) {
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		ones, _ := n.Mask.Size()
		if a, ok := netip.AddrFromSlice(n.IP); ok && ones > 0 {
			used = append(used, netip.PrefixFrom(a.Unmap(), ones).Masked())
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		add(a.IPNet)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		switch r.Type {
		case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_MULTICAST, unix.RTN_ANYCAST: // they come with the addresses
		default:
			add(r.Dst)
		}
	}
	return used, nil
}

// CheckUnused says whether another interface of this host than the network's bridge has
// an address in its IPv4 subnet: packets would go there. The error is Conflict.
func (n Network) CheckUnused(bridge string) error {
	if !n.IPv4.IsValid() {
		return nil
	}
	all, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.IPNet.String())
		if err != nil || !p.Overlaps(n.IPv4) || IsWide(p) {
			continue
		}
		i, err := net.InterfaceByIndex(a.LinkIndex)
		if err != nil || i.Name == bridge { // it is gone again
			continue
		}
		return kiln.Errorf(kiln.Conflict, "the subnet %s of network %q is also that of the interface %s (%s) of this "+
			"host; take it from there, or give the network another one: kiln network set %s ipv4.address=<address>/<bits>",
			n.IPv4.Masked(), n.Name, i.Name, p, n.Name)
	}
	return nil
}

// FreeSubnet gives the bridge's address in a /24 that overlaps none of those in use:
// of 10.0.0.0/8 if there is one, else of the other ranges for private use. A seed
// makes it likely that two hosts take different ones. Where routes cover all of the
// ranges, as those of some VPNs do, it is one that no subnet of /24 or longer is in. The
// error is Conflict.
func FreeSubnet(used []netip.Prefix, seed uint32) (netip.Prefix, error) {
	ranges := []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"}
	narrow := slices.DeleteFunc(slices.Clone(used), IsWide)
	for _, avoid := range [][]netip.Prefix{used, narrow} {
		for _, r := range ranges {
			if p, ok := freeIn(netip.MustParsePrefix(r), avoid, seed); ok {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, kiln.Errorf(kiln.Conflict, "this host has routes to every private subnet; give the network "+
		"one with ipv4.address")
}

// IsWide reports whether a route is of the kind that VPNs have for whole ranges: a subnet
// in one may be another's.
func IsWide(p netip.Prefix) bool { return p.Bits() <= 12 }

// freeIn walks the /24s of a range in steps that are prime to their number.
func freeIn(r netip.Prefix, used []netip.Prefix, seed uint32) (netip.Prefix, bool) {
	used = slices.DeleteFunc(slices.Clone(used), func(u netip.Prefix) bool { return !u.Overlaps(r) })
	count := uint32(1) << (24 - r.Bits())
	const stride = 7919
	for i := range count {
		at := (seed + i*stride) % count
		p := netip.PrefixFrom(addr(number(r.Addr())+at<<8), 24)
		if !slices.ContainsFunc(used, p.Overlaps) {
			return netip.PrefixFrom(p.Addr().Next(), 24), true
		}
	}
	return netip.Prefix{}, false
}

// Seed gives a random one.
func Seed() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

// LocalIPv6 gives the bridge's address in a random subnet for local use (RFC 4193).
func LocalIPv6() netip.Prefix {
	a := [16]byte{0xfd, 0x42}
	_, _ = rand.Read(a[2:8]) // never fails
	a[15] = 1
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
