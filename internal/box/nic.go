package box

import (
	"fmt"
	"net/netip"
)

// A Nic is an interface that a container starts with: one end of a pair, whose other
// end is a port of a bridge of the host. Its addresses are there before the first
// process runs, at a reboot from inside as well.
type Nic struct {
	Name       string // inside
	Bridge     string // of the host
	HostName   string // of the other end
	MAC        string
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
		set("type", "veth")
		set("flags", "up")
		set("link", n.Bridge)
		set("name", n.Name)
		set("veth.pair", n.HostName)
		set("hwaddr", n.MAC)
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
