package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A Forward leads what is sent to an address of the host to an instance. The kernel does
// it, and the instance sees who sent it.
type Forward struct {
	For      string     // what it is for, in errors
	Listen   netip.Addr // unspecified: every address of the host but the loopback's
	Protocol string     // "tcp" or "udp"; "": all that no other forward is for
	Ports    []uint16
	Target   netip.Addr
	// as many as Ports, or one for all; none: the same
	TargetPorts []uint16
}

// CheckForwards says whether forwards can be had together. The error is Conflict.
func CheckForwards(list []Forward) error {
	type port struct {
		protocol string
		number   uint16
	}
	seen := map[port][]Forward{}
	for _, f := range list {
		ports := f.Ports
		if f.Protocol == "" {
			ports = []uint16{0}
		}
		for _, number := range ports {
			p := port{f.Protocol, number}
			for _, o := range seen[p] {
				if o.Listen == f.Listen || o.Listen.Is4() == f.Listen.Is4() && (o.Listen.IsUnspecified() ||
					f.Listen.IsUnspecified()) {
					return kiln.Errorf(kiln.Conflict, "the address %s:%s is in use by %s", f.Protocol,
						netip.AddrPortFrom(f.Listen, number), o.For)
				}
			}
			seen[p] = append(seen[p], f)
		}
	}
	return nil
}

// forwardRules are the rules of all forwards; those for everything come last.
func (n Network) forwardRules() (rules [][]expr.Any) {
	list := slices.Clone(n.Forwards)
	slices.SortStableFunc(list, func(a, b Forward) int {
		switch {
		case (a.Protocol == "") == (b.Protocol == ""):
			return 0
		case a.Protocol == "":
			return 1
		}
		return -1
	})
	for _, f := range list {
		if f.Protocol == "" {
			rules = append(rules, append(f.listen(), f.to(0)...))
			continue
		}
		for at := 0; at < len(f.Ports); {
			first, target := f.Ports[at], f.target(at)
			last := first
			// Neighbours that keep their numbers are one rule.
			for at++; target == first && at < len(f.Ports) && f.Ports[at] == last+1 && f.target(at) == f.Ports[at]; at++ {
				last = f.Ports[at]
			}
			to := target
			if target == first {
				to = 0
			}
			rules = append(rules, append(append(f.listen(), f.ports(first, last)...), f.to(to)...))
		}
	}
	return rules
}

// target gives the port that the i-th one is led to.
func (f Forward) target(i int) uint16 {
	switch len(f.TargetPorts) {
	case 0:
		return f.Ports[i]
	case 1:
		return f.TargetPorts[0]
	}
	return f.TargetPorts[i]
}

// listen lets through packets to the address.
func (f Forward) listen() []expr.Any {
	rule := family(f.Listen)
	if !f.Listen.IsUnspecified() {
		return append(rule, address(false, expr.CmpOpEq, netip.PrefixFrom(f.Listen, f.Listen.BitLen()))...)
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if f.Listen.Is6() {
		loopback = netip.MustParsePrefix("::1/128")
	}
	rule = append(rule, address(false, expr.CmpOpNeq, loopback)...)
	return append(rule, &expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)})
}

// ports lets through packets to a range of ports.
func (f Forward) ports(first, last uint16) []expr.Any {
	protocol := byte(unix.IPPROTO_TCP)
	if f.Protocol == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binaryutil.BigEndian.PutUint16(first)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binaryutil.BigEndian.PutUint16(last)}}
}

// to changes the destination. port 0: it stays.
func (f Forward) to(port uint16) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}
	if f.Target.Is6() {
		nat.Family = unix.NFPROTO_IPV6
	}
	rule := []expr.Any{&expr.Immediate{Register: 1, Data: f.Target.AsSlice()}}
	if port != 0 {
		nat.RegProtoMin = 2
		rule = append(rule, &expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)})
	}
	return append(rule, nat)
}

// hairpin gives what instances send to one another by an address of the host the host's
// address, so that the answers come by the host as well.
func hairpin(p netip.Prefix) []expr.Any {
	rule := append(family(p.Addr()), address(true, expr.CmpOpEq, p)...)
	rule = append(rule, address(false, expr.CmpOpEq, p)...)
	return append(rule, &expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ctStatusDNAT),
			Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}, &expr.Masq{})
}
