package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is where a network's rules are: nobody else's, so it is replaced as a whole.
func (n Network) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "kiln_" + n.Bridge}
}

// firewall writes the network's table in one transaction.
func (n Network) firewall() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(n.table()) // so that the deletion finds one
	c.DelTable(t)
	t = c.AddTable(n.table())
	post := c.AddChain(&nftables.Chain{Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	if n.NAT4 && n.IPv4.IsValid() {
		c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: masquerade(n.IPv4.Masked())})
	}
	if n.NAT6 && n.IPv6.IsValid() {
		c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: masquerade(n.IPv6.Masked())})
	}
	toDNS := n.DNSPort != 0 && n.DNSPort != dnsPort && n.IPv4.IsValid()
	if !toDNS && len(n.Forwards) == 0 {
		return flush(c, n)
	}
	pre := c.AddChain(&nftables.Chain{Name: "prerouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	if toDNS {
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: n.toDNS(protocol)})
		}
	}
	if len(n.Forwards) > 0 {
		out := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
		for _, ch := range []*nftables.Chain{pre, out} {
			for _, exprs := range n.forwardRules() {
				c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs})
			}
		}
		for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
			if p.IsValid() {
				c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: hairpin(p.Masked())})
			}
		}
	}
	return flush(c, n)
}

func flush(c *nftables.Conn, n Network) error {
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the rules of %s (nftables): %w", n.Bridge, err)
	}
	return nil
}

func (n Network) removeFirewall() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(n.table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the rules of %s (nftables): %w", n.Bridge, err)
	}
	return nil
}

// family lets through packets of one version of IP.
func family(a netip.Addr) []expr.Any {
	version := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		version = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{version}}}
}

// address compares the source or the destination of a packet with a subnet.
func address(source bool, op expr.CmpOp, p netip.Prefix) []expr.Any {
	at, size := uint32(16), uint32(4)
	switch {
	case source && p.Addr().Is4():
		at = 12
	case source:
		at, size = 8, 16
	case p.Addr().Is6():
		at, size = 24, 16
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), int(size)*8),
			Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// masquerade gives what leaves a subnet the address of the host.
func masquerade(p netip.Prefix) []expr.Any {
	rule := append(family(p.Addr()), address(true, expr.CmpOpEq, p)...)
	return append(append(rule, address(false, expr.CmpOpNeq, p)...), &expr.Masq{})
}

// toDNS leads what instances send to port 53 of the bridge to the port that netd has.
func (n Network) toDNS(protocol byte) []expr.Any {
	host := netip.PrefixFrom(n.IPv4.Addr(), 32)
	rule := append(family(host.Addr()),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: interfaceData(n.Bridge)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}})
	rule = append(rule, address(false, expr.CmpOpEq, host)...)
	return append(rule,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(dnsPort)},
		&expr.Immediate{Register: 1, Data: host.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(uint16(n.DNSPort))},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	)
}
