package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/thread"
)

// A Finding is what one look at the way of an instance's packets showed.
type Finding struct {
	Check  string // what was looked at
	Broken bool
	Detail string // what is there, or isn't
	Cure   string // what to do; "": nothing is wrong
}

func fine(check, format string, args ...any) Finding {
	return Finding{Check: check, Detail: fmt.Sprintf(format, args...)}
}

func broken(check, cure, format string, args ...any) Finding {
	return Finding{Check: check, Broken: true, Detail: fmt.Sprintf(format, args...), Cure: cure}
}

// A Port is an interface of an instance that runs.
type Port struct {
	HostName string // of the host's end
	MAC      string
	Host     Host     // its lease
	Init     *os.File // a pidfd of the instance's init
}

// Explain walks the way that the packets of an instance take, from its interface to the
// world, and says what is there and what is broken. It changes nothing, and sends a question
// of DNS.
func (n Network) Explain(owner string, p Port) []Finding {
	list := n.explainBridge(owner)
	list = append(list, n.explainPort(p))
	list = append(list, n.explainInside(p)...)
	return append(list, n.explainHost()...)
}

func (n Network) explainBridge(owner string) []Finding {
	const check = "bridge"
	const again = "restart the daemon: it makes the bridge anew"
	link, err := netlink.LinkByName(n.Bridge)
	switch {
	case err != nil:
		return []Finding{broken(check, again, "this host has no interface %s", n.Bridge)}
	case link.Attrs().Alias != n.label(owner):
		return []Finding{broken(check, "remove or rename that interface, and restart the daemon",
			"the interface %s isn't kiln's", n.Bridge)}
	case link.Attrs().Flags&net.FlagUp == 0:
		return []Finding{broken(check, "ip link set "+n.Bridge+" up", "%s is switched off", n.Bridge)}
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return []Finding{broken(check, again, "the addresses of %s can't be read: %v", n.Bridge, err)}
	}
	for _, want := range []netip.Prefix{n.IPv4, n.IPv6} {
		if want.IsValid() && !slices.ContainsFunc(have, func(a netlink.Addr) bool {
			return a.IPNet.String() == want.String()
		}) {
			return []Finding{broken(check, again, "%s has lost its address %s", n.Bridge, want)}
		}
	}
	return []Finding{fine(check, "%s is up, with %s", n.Bridge, prefixes(n.IPv4, n.IPv6))}
}

func prefixes(list ...netip.Prefix) string {
	var words []string
	for _, p := range list {
		if p.IsValid() {
			words = append(words, p.String())
		}
	}
	if words == nil {
		return "no addresses"
	}
	return strings.Join(words, " and ")
}

func (n Network) explainPort(p Port) Finding {
	const check = "link"
	link, err := netlink.LinkByName(p.HostName)
	if err != nil {
		return broken(check, "restart the instance", "the host's end of the interface, %s, is gone", p.HostName)
	}
	bridge, err := netlink.LinkByName(n.Bridge)
	switch {
	case err == nil && link.Attrs().MasterIndex != bridge.Attrs().Index:
		return broken(check, "ip link set "+p.HostName+" master "+n.Bridge, "%s is no port of %s", p.HostName, n.Bridge)
	case link.Attrs().Flags&net.FlagUp == 0:
		return broken(check, "ip link set "+p.HostName+" up", "%s is switched off on the host", p.HostName)
	case link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0:
		return broken(check, "in the instance: ip link set up, of the interface "+p.MAC,
			"the instance has switched its interface off")
	}
	return fine(check, "%s is a port of %s", p.HostName, n.Bridge)
}

// explainInside looks from within the instance.
func (n Network) explainInside(p Port) (list []Finding) {
	if !n.IPv4.IsValid() || !p.Host.IPv4.IsValid() {
		return []Finding{fine("address", "the network has no IPv4; addresses of IPv6 are not looked at")}
	}
	err := thread.Run(func() error {
		if err := unix.Setns(int(p.Init.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		list = append(list, n.explainAddress(p))
		list = append(list, n.explainRoute())
		if n.DNS {
			list = append(list, n.explainDNS(p))
		}
		return nil
	})
	if err != nil {
		list = append(list, broken("instance", "restart the instance", "its network can't be entered: %v", err))
	}
	return list
}

func (n Network) explainAddress(p Port) Finding {
	const check = "address"
	want := netip.PrefixFrom(p.Host.IPv4, n.IPv4.Bits())
	links, err := netlink.LinkList()
	if err != nil {
		return broken(check, "restart the instance", "its interfaces can't be read: %v", err)
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() != p.MAC {
			continue
		}
		name := l.Attrs().Name
		if l.Attrs().Flags&net.FlagUp == 0 {
			return broken(check, "in the instance: ip link set "+name+" up", "%s is switched off in the instance", name)
		}
		have, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return broken(check, "restart the instance", "the addresses of %s can't be read: %v", name, err)
		}
		var others []string
		for _, a := range have {
			if a.IPNet.IP.Equal(want.Addr().AsSlice()) {
				return fine(check, "%s has %s, its lease", name, a.IPNet)
			}
			others = append(others, a.IPNet.String())
		}
		return broken(check, fmt.Sprintf("ask for it by DHCP in the instance, or there: ip addr add %s dev %s", want, name),
			"%s has not the address of its lease, %s, but [%s]", name, want, strings.Join(others, " "))
	}
	return broken(check, "restart the instance", "no interface in the instance has the hardware address %s", p.MAC)
}

func (n Network) explainRoute() Finding {
	const check = "route"
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return broken(check, "restart the instance", "the routes of the instance can't be read: %v", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if gw, ok := netip.AddrFromSlice(r.Gw); ok && gw.Unmap() == n.IPv4.Addr() {
				return fine(check, "the default route is by %s", n.IPv4.Addr())
			}
			return fine(check, "the default route is not by this network, but by %s", r.Gw)
		}
	}
	return broken(check, fmt.Sprintf("in the instance: ip route add default via %s", n.IPv4.Addr()),
		"the instance has no default route")
}

// explainTime bounds a question.
const explainTime = 3 * time.Second

// explainDNS asks for the instance's own name. The thread is in its network.
func (n Network) explainDNS(p Port) Finding {
	const check = "DNS"
	name := dns.Fqdn(p.Host.Name + "." + n.Domain)
	var q dns.Msg
	q.SetQuestion(name, dns.TypeA)
	server := netip.AddrPortFrom(n.IPv4.Addr(), dnsPort)
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return broken(check, "see the findings before", "%s can't be asked: %v", server, err)
	}
	defer conn.Close()
	begun := time.Now()
	a, _, err := (&dns.Client{Timeout: explainTime}).ExchangeWithConn(&q, &dns.Conn{Conn: conn})
	switch {
	case err != nil && os.IsTimeout(err), errors.Is(err, unix.ECONNREFUSED), err != nil:
		return broken(check, "look for what drops packets in the findings after this, and into networks/netd.log",
			"%s doesn't answer who %s is: %v", server, name, err)
	case len(a.Answer) != 1 || !strings.HasSuffix(a.Answer[0].String(), "\t"+p.Host.IPv4.String()):
		return broken(check, "restart the daemon: it tells netd anew", "%s doesn't know %s", server, name)
	}
	return fine(check, "%s answered who %s is in %v", server, name, time.Since(begun).Round(100*time.Microsecond))
}

// explainHost looks at what the host does with the packets of the network.
func (n Network) explainHost() []Finding {
	var list []Finding
	if n.IPv4.IsValid() {
		const key = "net.ipv4.ip_forward"
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(b)) != "1" {
			list = append(list, broken("forwarding", "sysctl -w "+key+"=1, and find what switches it off in /etc/sysctl.d",
				"this host doesn't forward packets: %s is %s", key, strings.TrimSpace(string(b))))
		} else {
			list = append(list, fine("forwarding", "%s is 1", key))
		}
	}
	list = append(list, n.explainNAT(), n.explainFirewalls())
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err == nil && !slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.Dst == nil || r.Dst.IP.IsUnspecified()
	}) {
		list = append(list, fine("way out", "this host has no default route itself: nothing outside is reached"))
	}
	return list
}

func (n Network) explainNAT() Finding {
	const check = "NAT"
	if !n.NAT4 || !n.IPv4.IsValid() {
		return fine(check, "ipv4.nat is off: others need routes to the subnet")
	}
	const again = "restart the daemon: it writes its rules anew"
	c, err := nftables.New()
	if err != nil {
		return broken(check, again, "nftables can't be asked: %v", err)
	}
	rules, err := c.GetRules(n.table(), &nftables.Chain{Name: "postrouting"})
	if err != nil || !slices.ContainsFunc(rules, func(r *nftables.Rule) bool {
		return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { _, ok := e.(*expr.Masq); return ok })
	}) {
		return broken(check, again, "the table inet %s has no rule that gives packets the address of the host",
			n.table().Name)
	}
	return fine(check, "the table inet %s gives packets the address of the host", n.table().Name)
}

// missing is a rule set that only says what it lacks.
type missing struct {
	ruleSet
	lacks *[]string
}

func (m missing) replace(_ []mark, add []opening) error {
	for _, o := range add {
		*m.lacks = append(*m.lacks, o.chain)
	}
	return nil
}

func (n Network) explainFirewalls() Finding {
	const check = "firewall"
	if !n.Firewall4 {
		return fine(check, "ipv4.firewall is false: what other firewalls of this host drop is their users' choice")
	}
	sets, err := n.foreignSets()
	if err != nil {
		return broken(check, "look at the rules yourself: nft list ruleset", "the rules of this host can't be read: %v", err)
	}
	var lacking, all []string
	for _, s := range sets {
		var lacks []string
		all = append(all, s.name)
		s.ruleSet = missing{s.ruleSet, &lacks}
		if err := n.fitSet(s, n.openings); err != nil {
			return broken(check, "look at the rules yourself: nft list ruleset", "%s: %v", s.name, err)
		}
		if lacks != nil {
			slices.Sort(lacks)
			lacking = append(lacking, s.name+": "+strings.Join(slices.Compact(lacks), ", "))
		}
		if strings.HasPrefix(s.name, "firewalld ") {
			all[len(all)-1] += " (kiln doesn't change it: firewall-cmd --zone=trusted --add-interface=" + n.Bridge + ")"
		}
	}
	switch {
	case lacking != nil:
		return broken(check, "restart the daemon: it puts its rules again", "a firewall of this host drops what it "+
			"doesn't know, without kiln's rules in: %s", strings.Join(lacking, "; "))
	case all == nil:
		return fine(check, "this host has no other firewall")
	}
	slices.Sort(all)
	return fine(check, "these drop nothing of the network, or have kiln's rules: %s",
		strings.Join(all, ", "))
}
