package network_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/network"
)

// TestExplain breaks one thing after the other, and each is named with its cure.
func TestExplain(t *testing.T) {
	n, _, mac := onNetwork(t, "tbr5")
	instance := apart(t, "tbr5i", "10.99.7.23/24", "10.99.7.1")
	port := network.Port{HostName: "tbr5p", MAC: mac.String(), Host: n.Hosts[0], Init: instance}
	look := func() (wrong []string) {
		for _, f := range n.Explain("test", port) {
			if f.Broken != (f.Cure != "") || f.Detail == "" {
				t.Errorf("%+v", f)
			}
			if f.Broken {
				wrong = append(wrong, f.Check+": "+f.Detail)
			}
		}
		return wrong
	}
	eventually(t, "nothing is broken", func() error {
		if wrong := look(); wrong != nil {
			return kiln.Errorf(kiln.Network, "%s", strings.Join(wrong, "; "))
		}
		return nil
	})
	forward := func(value string) {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		wreck, mend func()
		want        string
	}{
		{func() { forward("0") }, func() { forward("1") }, "forwarding: this host doesn't forward packets"},
		{func() { run(t, "sh", "nft delete table inet kiln_tbr5") }, func() {
			if err := n.Up("test"); err != nil {
				t.Fatal(err)
			}
		}, "NAT: the table inet kiln_tbr5 has no rule"},
		{func() { run(t, "sh", "ip link set tbr5p down") }, func() { run(t, "sh", "ip link set tbr5p up") },
			"link: tbr5p is switched off on the host"},
		{func() { run(t, "sh", "ip link set tbr5p nomaster") }, func() { run(t, "sh", "ip link set tbr5p master tbr5") },
			"link: tbr5p is no port of tbr5"},
		{func() { run(t, "sh", "ip addr del 10.99.7.1/24 dev tbr5") },
			func() { run(t, "sh", "ip addr add 10.99.7.1/24 dev tbr5") }, "bridge: tbr5 has lost its address"},
		{func() { run(t, "sh", "nft -f - <<'E'\n"+nftLike+"E") }, func() { run(t, "sh", "nft delete table inet mine") },
			"firewall: a firewall of this host drops what it doesn't know, without kiln's rules in: mine (nftables)"},
		{func() {
			inside(t, instance, func() error {
				l, err := netlink.LinkByName("tbr5i")
				if err != nil {
					return err
				}
				a, err := netlink.ParseAddr("10.99.7.23/24")
				if err != nil {
					return err
				}
				return netlink.AddrDel(l, a)
			})
		}, nil, "address: tbr5i has not the address of its lease, 10.99.7.23/24, but []"},
	} {
		c.wreck()
		if wrong := look(); !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, c.want) }) {
			t.Errorf("%q isn't among %q", c.want, wrong)
		}
		if c.mend != nil {
			c.mend()
		}
	}
}

// TestForwards leads what is sent to an address of the host to an instance, which sees who
// sent it; the host itself and the instance reach it by that address, too.
func TestForwards(t *testing.T) {
	n, _, _ := onNetwork(t, "tbr6")
	instance := apart(t, "tbr6i", "10.99.7.23/24", "10.99.7.1")
	other := away(t)
	target := n.Hosts[0].IPv4
	listen := mustAddr("192.0.2.1")
	n.Forwards = []network.Forward{
		{For: "a", Listen: listen, Protocol: "tcp", Ports: []uint16{8000, 8001, 8002}, Target: target},
		{For: "b", Listen: mustAddr("0.0.0.0"), Protocol: "tcp", Ports: []uint16{90, 91}, Target: target,
			TargetPorts: []uint16{8001}},
	}
	if err := n.Up("test"); err != nil {
		t.Fatal(err)
	}
	sees := serve(t, instance, "10.99.7.23:8001")
	for _, c := range []struct {
		from *os.File
		to   string
		want string // whom the instance sees
	}{
		{other, "192.0.2.1:8001", "192.0.2.9"}, {other, "192.0.2.1:91", "192.0.2.9"}, {nil, "192.0.2.1:90", ""},
		{instance, "192.0.2.1:90", "10.99.7.1"},
	} {
		if err := dialFrom(c.from, c.to); err != nil {
			t.Errorf("%s: %v", c.to, err)
			continue
		}
		if got := <-sees; c.want != "" && got != c.want {
			t.Errorf("%s: the instance sees %s, want %s", c.to, got, c.want)
		}
	}
	for _, c := range []struct {
		f    network.Forward
		want kiln.Kind
	}{
		{network.Forward{Listen: listen, Protocol: "tcp", Ports: []uint16{8002}}, kiln.Conflict},
		{network.Forward{Listen: listen, Protocol: "tcp", Ports: []uint16{90}}, kiln.Conflict},
		{network.Forward{Listen: mustAddr("0.0.0.0"), Protocol: "tcp", Ports: []uint16{8000}}, kiln.Conflict},
		{network.Forward{Listen: listen, Protocol: "udp", Ports: []uint16{8002}}, ""},
		{network.Forward{Listen: mustAddr("192.0.2.2"), Protocol: "tcp", Ports: []uint16{8002}}, ""},
		{network.Forward{Listen: mustAddr("::"), Protocol: "tcp", Ports: []uint16{90}}, ""},
	} {
		err := network.CheckForwards(append(slices.Clone(n.Forwards), c.f))
		if c.want == "" && err != nil || c.want != "" && kiln.KindOf(err) != c.want {
			t.Errorf("%+v: %v, want %q", c.f, err, c.want)
		}
	}
}
