package box

import (
	"fmt"
	"net/netip"
)

// A NicKind says what an interface of a container is to the host.
type NicKind string

// The kinds of interfaces.
const (
	Pair     NicKind = ""         // one end of a pair, whose other end is the host's
	MACVLAN  NicKind = "macvlan"  // an address of its own on an interface of the host
	Physical NicKind = "physical" // an interface that the host hasn't any more
)

// A Nic is an interface of a container. One that it starts with has its addresses before
// the first process runs, at a reboot from inside as well.
type Nic struct {
	Kind       NicKind
	Name       string       // inside
	Parent     string       // interface of the host; of a pair, the bridge that the host's end is a port of, if any
	HostName   string       // of the host's end of a pair
	MAC        string       // "": what the kernel chooses
	MTU        int          // bytes; 0: the bridge's
	IPv4, IPv6 netip.Prefix // not valid: none
	Gateway    netip.Addr   // of IPv4; not valid: none
}

// nics sets the interfaces: the first is the loopback.
func (c *config) nics(list []Nic) {
	c.set("lxc.net.0.type", "empty")
	c.set("lxc.net.0.flags", "up")
	for i, n := range list {
		set := func(key, value string) { c.set(fmt.Sprintf("lxc.net.%d.%s", i+1, key), "%s", value) }
		switch n.Kind {
		case Pair:
			set("type", "veth")
			set("veth.pair", n.HostName)
		case MACVLAN:
			set("type", "macvlan")
			set("macvlan.mode", "bridge")
		case Physical:
			set("type", "phys")
		}
		set("flags", "up")
		if n.Parent != "" {
			set("link", n.Parent)
		}
		set("name", n.Name)
		if n.MAC != "" {
			set("hwaddr", n.MAC)
		}
		if n.MTU > 0 {
			set("mtu", fmt.Sprint(n.MTU))
		}
		if n.IPv4.IsValid() {
			set("ipv4.address", n.IPv4.String()+" "+broadcast(n.IPv4).String()) // liblxc doesn't know it
		}
		if n.Gateway.IsValid() {
			set("ipv4.gateway", n.Gateway.String())
		}
		if n.IPv6.IsValid() {
			set("ipv6.address", n.IPv6.String())
		}
	}
}

// broadcast is the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}
