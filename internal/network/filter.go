package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// A Filter says what an interface of an instance may send on its bridge, and how much. It
// goes by the name of the port, so that it holds from the first packet on, at each start
// and reboot of the instance, until it is removed.
type Filter struct {
	Port string           // the host's end of the interface
	MAC  net.HardwareAddr // nothing is sent from another one; nil: anything may be
	// Nothing is sent from other addresses than these, link-local ones of IPv6 aside.
	CheckIPv4, CheckIPv6 bool
	IPv4, IPv6           netip.Addr // not valid: there is none
	// What the instance gets and sends at most, in bytes per second. 0: no bound.
	Ingress, Egress uint64
}

func (f Filter) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: "kiln_" + f.Port}
}

// Set has the filter hold, in the place of what held for that port.
func (f Filter) Set() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(f.table()) // so that the deletion finds one
	c.DelTable(t)
	t = c.AddTable(f.table())
	chain := func(name string, hook *nftables.ChainHook, key expr.MetaKey) func(...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityRef(-300)})
		return func(parts ...[]expr.Any) {
			rule := []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(interfaceData(f.Port))}
			for _, p := range parts {
				rule = append(rule, p...)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(rule, &expr.Verdict{Kind: expr.VerdictDrop})})
		}
	}
	from := chain("from", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME)
	f.checkSource(from)
	if f.Egress > 0 {
		from(over(f.Egress))
	}
	to := chain("to", nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME)
	if f.Ingress > 0 {
		to(over(f.Ingress))
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the filter of %s (nftables): %w", f.Port, err)
	}
	return nil
}

// RemoveFilter has no filter hold for a port. One that has none is as good.
func RemoveFilter(port string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := Filter{Port: port}.table()
	there, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(there, func(o *nftables.Table) bool { return o.Name == t.Name }) {
		return nil
	}
	c.DelTable(t)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the filter of %s (nftables): %w", port, err)
	}
	return nil
}

// ParseRate reads bits per second, "10Mbit", and gives bytes. The error is Invalid.
func ParseRate(v string) (uint64, error) {
	units := map[string]uint64{"": 1, "bit": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9, "Tbit": 1e12, "Kibit": 1 << 10,
		"Mibit": 1 << 20, "Gibit": 1 << 30, "Tibit": 1 << 40}
	digits := strings.TrimRight(v, "abcdefghijklmnopqrstuvwxyzGKMT")
	n, err := strconv.ParseUint(digits, 10, 32)
	unit, ok := units[v[len(digits):]]
	if err != nil || !ok || n*unit < 8 || n*unit>>45 > 0 {
		return 0, kiln.Errorf(kiln.Invalid, "%q is not a number of bits per second such as 500kbit, 10Mbit or 1Gbit", v)
	}
	return n * unit / 8, nil
}

// checkSource drops what isn't sent from the interface's own addresses. Headers are
// as in RFC 826 (ARP), RFC 791, RFC 8200 and RFC 4861 (neighbour discovery).
func (f Filter) checkSource(drop func(...[]expr.Any)) {
	const advertisement, router = 136, 134
	arp, ip, ip6 := etherType(unix.ETH_P_ARP), etherType(unix.ETH_P_IP), etherType(unix.ETH_P_IPV6)
	icmp := join(ip6, at(expr.PayloadBaseNetworkHeader, 6, expr.CmpOpEq, []byte{unix.IPPROTO_ICMPV6}))
	neighbour := join(icmp, at(expr.PayloadBaseTransportHeader, 0, expr.CmpOpEq, []byte{advertisement}))
	if f.MAC != nil {
		drop(at(expr.PayloadBaseLLHeader, 6, expr.CmpOpNeq, f.MAC))
		drop(arp, at(expr.PayloadBaseNetworkHeader, 8, expr.CmpOpNeq, f.MAC))
		drop(neighbour, at(expr.PayloadBaseNetworkHeader, 66, expr.CmpOpNeq, f.MAC))
	}
	if f.CheckIPv4 || f.CheckIPv6 { // which could hide what is looked for
		drop(etherType(unix.ETH_P_8021Q))
		drop(etherType(unix.ETH_P_8021AD))
	}
	if f.CheckIPv4 {
		none := netip.IPv4Unspecified()
		drop(arp, not(expr.PayloadBaseNetworkHeader, 14, none, f.IPv4))
		drop(ip, not(expr.PayloadBaseNetworkHeader, 12, none, f.IPv4))
		// Without an address it may ask for one, and nothing else.
		drop(ip, at(expr.PayloadBaseNetworkHeader, 12, expr.CmpOpEq, none.AsSlice()),
			at(expr.PayloadBaseNetworkHeader, 16, expr.CmpOpNeq, []byte{255, 255, 255, 255}))
	}
	if f.CheckIPv6 {
		local := netip.MustParsePrefix("fe80::/10")
		other := func(offset uint32) []expr.Any {
			return join([]expr.Any{payload(expr.PayloadBaseNetworkHeader, offset, 16),
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: net.CIDRMask(local.Bits(), 128),
					Xor: make([]byte, 16)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: local.Addr().AsSlice()}},
				not(expr.PayloadBaseNetworkHeader, offset, netip.IPv6Unspecified(), f.IPv6))
		}
		drop(ip6, other(8))
		drop(neighbour, other(48))
		drop(icmp, at(expr.PayloadBaseTransportHeader, 0, expr.CmpOpEq, []byte{router}))
	}
}

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func payload(base expr.PayloadBase, offset, size uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: size}
}

// etherType lets through frames of a type.
func etherType(t uint16) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseLLHeader, 12, 2), equal([]byte{byte(t >> 8), byte(t)})}
}

// at compares bytes of a header.
func at(base expr.PayloadBase, offset uint32, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{payload(base, offset, uint32(len(data))), &expr.Cmp{Op: op, Register: 1, Data: bytes.Clone(data)}}
}

// not lets through what has none of some addresses at a place.
func not(base expr.PayloadBase, offset uint32, addresses ...netip.Addr) (all []expr.Any) {
	for _, a := range addresses {
		if a.IsValid() {
			all = append(all, at(base, offset, expr.CmpOpNeq, a.AsSlice())...)
		}
	}
	return all
}

// over lets through what is more than so many bytes in a second. A tenth of a second's
// may come at once, or a few of the largest packets.
func over(rate uint64) []expr.Any {
	return []expr.Any{&expr.Limit{Type: expr.LimitTypePktBytes, Rate: rate, Over: true, Unit: expr.LimitTimeSecond,
		Burst: uint32(min(max(rate/10, 256<<10), 1<<31))}}
}
