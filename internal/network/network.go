// Package network makes the bridges that instances are connected to, with their
// addresses and their NAT, and serves DHCP, router advertisements and DNS on them from
// a process of its own, netd, which outlives the daemon.
//
// It doesn't know what an instance is, nor where networks and leases are kept: it is
// given a Network, and who is on it.
package network

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"github.com/kiln-containers/kiln"
)

// A Network says what a bridge is to be like.
type Network struct {
	Name   string
	Bridge string // the interface of this host
	MTU    int    // bytes; 0: the kernel's choice
	// The addresses of the bridge, with the length of its subnets. Not valid: it has none.
	IPv4, IPv6 netip.Prefix
	NAT4, NAT6 bool // what goes out has the host's address
	// other firewalls of the host are told to let packets of that version of IP pass
	Firewall4, Firewall6 bool
	DHCP                 bool   // of IPv4
	DNS                  bool   // the names of instances are answered
	Domain               string // that names of instances are below
	DNSPort              int    // that netd answers at; another than 53 where that one is taken
	Hosts                []Host
	Forwards             []Forward `json:"-"` // netd has nothing to do with them
}

// A Host is an interface of an instance on a network.
type Host struct {
	Name string // of the instance
	MAC  string // as net.HardwareAddr has it
	IPv4 netip.Addr
	IPv6 netip.Addr
}

// MAC gives the hardware address of a new instance's interface. It follows from the
// instance's UUID and the name of the device, so it is another in every copy. It is locally
// administered and not a group's (IEEE 802).
func MAC(uuid, device string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("mac/" + uuid + "/" + device))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// HostName gives the name of the host's end of an instance's interface, which fits in
// the kernel's 15 characters.
func HostName(uuid, device string) string {
	sum := sha256.Sum256([]byte("veth/" + uuid + "/" + device))
	return fmt.Sprintf("kiln%x", sum[:5])
}

// EUI64 gives the address that an interface makes of a /64 prefix that is advertised to
// it (RFC 4291, appendix A). It is the zero Addr when the prefix isn't one.
func EUI64(prefix netip.Prefix, mac net.HardwareAddr) netip.Addr {
	if prefix.Bits() != 64 || len(mac) != 6 {
		return netip.Addr{}
	}
	a := prefix.Masked().Addr().As16()
	copy(a[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(a)
}

// FreeAddress gives an address of the bridge's IPv4 subnet that nobody has. The same
// MAC gets the same one where it can. The error is Conflict when all are taken.
func FreeAddress(subnet netip.Prefix, mac net.HardwareAddr, taken func(netip.Addr) bool) (netip.Addr, error) {
	first := subnet.Masked().Addr()
	last := lastAddr(subnet)
	size := number(last) - number(first) - 1 // without the subnet's own address and the broadcast
	if subnet.Bits() > 30 {
		size = 0
	}
	sum := sha256.Sum256(mac)
	start := uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
	for i := range min(size, 1<<16) {
		a := addr(number(first) + 1 + (start%size+i)%size)
		if a != subnet.Addr() && !taken(a) {
			return a, nil
		}
	}
	return netip.Addr{}, kiln.Errorf(kiln.Conflict, "every address of %s is in use; delete instances, or connect new "+
		"ones to another network", subnet.Masked())
}

// CheckAddress says whether an instance can have an address of the bridge's subnet.
// The error is Invalid.
func CheckAddress(subnet netip.Prefix, a netip.Addr) error {
	if !subnet.IsValid() || !subnet.Contains(a) {
		return kiln.Errorf(kiln.Invalid, "the address %s is not one of the subnet %s", a, subnet.Masked())
	}
	if a == subnet.Addr() || a == subnet.Masked().Addr() || a.Is4() && a == lastAddr(subnet) {
		return kiln.Errorf(kiln.Invalid, "the address %s of %s is not for instances: it is the bridge's own, the first or "+
			"the last", a, subnet.Masked())
	}
	return nil
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func addr(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// lastAddr is the last address of an IPv4 prefix; of others the first.
func lastAddr(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return p.Masked().Addr()
	}
	return addr(number(p.Masked().Addr()) | uint32(1<<(32-p.Bits())-1))
}
