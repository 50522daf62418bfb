package network_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/network/nettest"
	"github.com/kiln-containers/kiln/internal/thread"
)

func TestMain(m *testing.M) {
	nettest.Isolate()
	os.Exit(m.Run())
}

// onNetwork is a network with a port that stands for an instance.
func onNetwork(t *testing.T, name string) (network.Network, network.Directory, net.HardwareAddr) {
	t.Helper()
	n := network.Plan(name, map[string]string{"ipv4.address": "10.99.7.1/24", "ipv6.address": "fd42:1:2:3::1/64"})
	n.Bridge = name
	if err := n.Up("test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Down("test"); err != nil {
			t.Error(err)
		}
	})
	mac := network.MAC("uuid", name)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name + "p"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "i", PeerHardwareAddr: mac}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) })
	bridge, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := netlink.LinkByName(name + "i")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.LinkSetMaster(pair, bridge), netlink.LinkSetUp(pair), netlink.LinkSetUp(inner)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.Hosts = []network.Host{{Name: "c1", MAC: mac.String(), IPv4: netip.MustParseAddr("10.99.7.23"),
		IPv6: network.EUI64(n.IPv6, mac)}}
	dir := network.Directory{Path: filepath.Join(t.TempDir(), "networks"), Version: "1"}
	if err := dir.Set(n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n, dir, mac
}

// eventually waits for what a process does in its time.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	if err := within(f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// within gives the last error when it doesn't work in a minute.
func within(f func() error) (err error) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return nil
		}
	}
	return err
}

func TestServes(t *testing.T) {
	n, dir, mac := onNetwork(t, "tbr0")
	ask := func(mac net.HardwareAddr) (string, error) {
		c, err := nclient4.New("tbr0i", nclient4.WithHWAddr(mac), nclient4.WithTimeout(500*time.Millisecond))
		if err != nil {
			return "", err
		}
		defer c.Close()
		lease, err := c.Request(context.Background())
		if err != nil {
			return "", err
		}
		return lease.ACK.YourIPAddr.String() + " " + lease.ACK.Router()[0].String() + " " + lease.ACK.DNS()[0].String(), nil
	}
	eventually(t, "an address by DHCP", func() error {
		got, err := ask(mac)
		if err == nil && got != "10.99.7.23 10.99.7.1 10.99.7.1" {
			t.Errorf("DHCP gave %q", got)
		}
		return err
	})
	if got, err := ask(network.MAC("other", "x")); err == nil {
		t.Errorf("DHCP gave a stranger %q", got)
	}

	resolve := func(name string, kind uint16) string {
		var q dns.Msg
		q.SetQuestion(name, kind)
		for _, protocol := range []string{"udp", "tcp"} {
			c := dns.Client{Net: protocol}
			a, _, err := c.Exchange(&q, "10.99.7.1:53")
			if err != nil {
				t.Fatal(err)
			}
			if protocol == "udp" {
				continue
			}
			if len(a.Answer) == 0 {
				return dns.RcodeToString[a.Rcode]
			}
			fields := strings.Fields(a.Answer[0].String())
			return fields[len(fields)-1]
		}
		return ""
	}
	for question, want := range map[string]string{"c1.kiln.": "10.99.7.23", "C1.": "10.99.7.23", "c2.kiln.": "NXDOMAIN",
		"c2.": "NXDOMAIN", "23.7.99.10.in-addr.arpa.": "c1.kiln."} {
		kind := dns.TypeA
		if strings.HasSuffix(question, "arpa.") {
			kind = dns.TypePTR
		}
		if got := resolve(question, kind); got != want {
			t.Errorf("%s is %q, want %q", question, got, want)
		}
	}

	ifi, err := net.InterfaceByName("tbr0i")
	if err != nil {
		t.Fatal(err)
	}
	var conn *ndp.Conn
	eventually(t, "a link-local address", func() (err error) {
		conn, _, err = ndp.Listen(ifi, ndp.LinkLocal)
		return err
	})
	defer conn.Close()
	eventually(t, "a router advertisement", func() error {
		if err := conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.MustParseAddr("ff02::2")); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		for {
			m, _, _, err := conn.ReadFrom()
			if err != nil {
				return err
			}
			if ra, ok := m.(*ndp.RouterAdvertisement); ok {
				if p, ok := ra.Options[0].(*ndp.PrefixInformation); !ok || p.Prefix != n.IPv6.Masked().Addr() {
					t.Errorf("the advertisement is of %+v", ra.Options[0])
				}
				return nil
			}
		}
	})

	// It serves what is new, and goes on as another version.
	n.Hosts = append(n.Hosts, network.Host{Name: "c2", MAC: "02:00:00:00:00:02", IPv4: netip.MustParseAddr("10.99.7.24")})
	if err := dir.Set(n); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the name of a new instance", func() error {
		if got := resolve("c2.kiln.", dns.TypeA); got != "10.99.7.24" {
			return kiln.Errorf(kiln.NotFound, "c2 is %q", got)
		}
		return nil
	})
	pid := func() string {
		b, _ := os.ReadFile(filepath.Join(dir.Path, "netd.lock"))
		return string(b)
	}
	before := pid()
	if err := dir.Ensure(); err != nil || pid() != before {
		t.Errorf("netd is another one now: %q, %q, %v", before, pid(), err)
	}
	dir.Version = "2"
	if err := dir.Ensure(); err != nil || pid() == before || !dir.Running() {
		t.Errorf("netd is the one of before: %q, %v", pid(), err)
	}
}

// TestPortTaken: somebody has port 53 on every address, and instances get their answers
// from the bridge's port 53 all the same.
func TestPortTaken(t *testing.T) {
	packets, err := net.ListenPacket("udp", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	streams, err := net.Listen("tcp", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	n, dir, _ := onNetwork(t, "tbr3")
	if n.DNSPort, err = network.FreeDNSPort(n.IPv4.Addr()); err != nil || n.DNSPort == 53 {
		t.Fatalf("the free port is %d, %v", n.DNSPort, err)
	}
	if err := n.Up("test"); err != nil {
		t.Fatal(err)
	}
	if err := dir.Set(n); err != nil {
		t.Fatal(err)
	}
	inner, err := netlink.LinkByName("tbr3i")
	if err != nil {
		t.Fatal(err)
	}
	err = thread.Run(func() error { // which is an instance
		host, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer host.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer own.Close()
		if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := netlink.LinkSetNsFd(inner, int(own.Fd())); err != nil {
			return err
		}
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		address, err := netlink.ParseAddr("10.99.7.23/24")
		if err != nil {
			return err
		}
		for _, err := range []error{netlink.AddrAdd(inner, address), netlink.LinkSetUp(inner)} {
			if err != nil {
				return err
			}
		}
		var q dns.Msg
		q.SetQuestion("c1.kiln.", dns.TypeA)
		for _, protocol := range []string{"udp", "tcp"} {
			err := within(func() error {
				a, _, err := (&dns.Client{Net: protocol, Timeout: time.Second}).Exchange(&q, "10.99.7.1:53")
				if err == nil && (len(a.Answer) != 1 || !strings.HasSuffix(a.Answer[0].String(), "10.99.7.23")) {
					t.Errorf("the answer is %v", a)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEnds has netd end with its directory.
func TestEnds(t *testing.T) {
	_, dir, _ := onNetwork(t, "tbr1")
	b, err := os.ReadFile(filepath.Join(dir.Path, "netd.lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(b))[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir.Path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of netd", func() error {
		cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.HasPrefix(string(cmdline), network.Program) {
			return kiln.Errorf(kiln.Timeout, "it still runs")
		}
		return nil
	})
}

func TestBridge(t *testing.T) {
	n := network.Plan("tbr2", map[string]string{"ipv4.address": "10.99.9.1/24", "ipv6.address": "none"})
	n.Bridge = "tbr2"
	if err := n.Up("a"); err != nil {
		t.Fatal(err)
	}
	defer n.Down("a")
	if err := n.Up("a"); err != nil {
		t.Errorf("once more: %v", err)
	}
	if err := n.Up("b"); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("somebody else's interface: %v", err)
	}
	if other, err := n.FreeInterface("b"); err != nil || other != "tbr1" {
		t.Errorf("another interface is %q, %v", other, err)
	}
	used, err := network.InUse()
	if err != nil || !slices.Contains(used, netip.MustParsePrefix("10.99.9.0/24")) {
		t.Errorf("in use are %v, %v", used, err)
	}
	n.IPv4 = netip.MustParsePrefix("10.99.10.1/24")
	if err := n.Up("a"); err != nil {
		t.Fatal(err)
	}
	if i, err := network.Look("tbr2"); err != nil || i.Kind != "bridge" || len(i.Addresses) == 0 ||
		i.Addresses[0].String() != "10.99.10.1/24" {
		t.Errorf("the bridge is %+v, %v", i, err)
	}
	if err := n.Down("b"); err != nil {
		t.Error(err)
	}
	if err := network.IsBridge("tbr2"); err != nil {
		t.Errorf("somebody else took the bridge down: %v", err)
	}
	if err := n.Down("a"); err != nil {
		t.Error(err)
	}
	if err := n.Down("a"); err != nil {
		t.Errorf("it is down: %v", err)
	}
	if err := network.IsBridge("lo"); kiln.KindOf(err) != kiln.Invalid {
		t.Errorf("lo is a bridge: %v", err)
	}
}

func TestFreeSubnet(t *testing.T) {
	prefixes := func(list ...string) (all []netip.Prefix) {
		for _, s := range list {
			all = append(all, netip.MustParsePrefix(s))
		}
		return all
	}
	for _, c := range []struct {
		used []netip.Prefix
		want string // range of the answer
	}{
		{nil, "10.0.0.0/8"},
		{prefixes("10.0.0.0/8"), "172.16.0.0/12"},
		{prefixes("10.0.0.0/8", "172.16.0.0/12"), "192.168.0.0/16"},
		{prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), "100.64.0.0/10"},
		{prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "10.1.0.0/16"), "10.0.0.0/8"},
		{prefixes("10.0.0.0/9", "10.128.0.0/10"), "10.192.0.0/10"},
	} {
		for seed := range uint32(50) {
			got, err := network.FreeSubnet(c.used, seed*77777)
			if err != nil || !netip.MustParsePrefix(c.want).Contains(got.Addr()) || got.Bits() != 24 {
				t.Errorf("beside %v: %v, %v; want one of %s", c.used, got, err, c.want)
			}
			for _, u := range c.used {
				if u.Bits() > 12 && u.Overlaps(got) {
					t.Errorf("%v overlaps with %v", got, u)
				}
			}
		}
	}
	all := prefixes("10.0.0.0/13", "10.8.0.0/13", "192.168.0.0/16")
	for i := range 30 {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(16 + i*8), 0, 0}), 13))
	}
	all = append(all, prefixes("172.16.0.0/13", "172.24.0.0/13", "100.64.0.0/13", "100.72.0.0/13", "100.80.0.0/13",
		"100.88.0.0/13", "100.96.0.0/13", "100.104.0.0/13", "100.112.0.0/13", "100.120.0.0/13")...)
	if got, err := network.FreeSubnet(all, 1); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("with no room left: %v, %v", got, err)
	}
}

func TestFreeAddress(t *testing.T) {
	subnet := netip.MustParsePrefix("10.9.9.1/29")
	taken := map[netip.Addr]bool{}
	for range 5 {
		a, err := network.FreeAddress(subnet, network.MAC("u", "d"), func(a netip.Addr) bool { return taken[a] })
		if err != nil || network.CheckAddress(subnet, a) != nil || taken[a] {
			t.Fatalf("%v, %v beside %v", a, err, taken)
		}
		taken[a] = true
	}
	if a, err := network.FreeAddress(subnet, network.MAC("u", "d"), func(a netip.Addr) bool { return taken[a] }); err == nil {
		t.Errorf("one address too many: %v", a)
	}
	for _, a := range []string{"10.9.9.0", "10.9.9.1", "10.9.9.7", "10.9.9.8", "fd42::2"} {
		if err := network.CheckAddress(subnet, netip.MustParseAddr(a)); kiln.KindOf(err) != kiln.Invalid {
			t.Errorf("%s: %v", a, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		key, value string
		want       kiln.Kind
	}{
		{"ipv4.address", "auto", ""}, {"ipv4.address", "none", ""}, {"ipv4.address", "10.1.1.1/24", ""},
		{"ipv4.address", "10.1.1.0/24", kiln.Invalid}, {"ipv4.address", "10.1.1.255/24", kiln.Invalid},
		{"ipv4.address", "10.1.1.1", kiln.Invalid}, {"ipv4.address", "10.1.1.1/30", kiln.Invalid},
		{"ipv4.address", "fd42::1/64", kiln.Invalid}, {"ipv4.address", "127.0.0.1/8", kiln.Invalid},
		{"ipv6.address", "fd42::1/64", ""}, {"ipv6.address", "fd42::1/80", kiln.Invalid},
		{"ipv6.address", "fe80::1/64", kiln.Invalid}, {"ipv6.address", "::ffff:10.1.1.1/64", kiln.Invalid},
		{"ipv4.nat", "maybe", kiln.Invalid}, {"ipv4.nat", "false", ""}, {"dns.domain", "dev.example", ""},
		{"dns.domain", "Bad_", kiln.Invalid}, {"dns.mode", "dynamic", kiln.Invalid}, {"bridge.mtu", "9000", ""},
		{"bridge.mtu", "12", kiln.Invalid}, {"user.x", "y", ""}, {"bridge.driver", "openvswitch", kiln.Unsupported},
		{"ipv4.adress", "auto", kiln.Unsupported}, {"nonsense", "1", kiln.Invalid},
	} {
		if err := network.Check(map[string]string{c.key: c.value}); c.want == "" && err != nil ||
			c.want != "" && kiln.KindOf(err) != c.want {
			t.Errorf("%s=%s: %v, want %q", c.key, c.value, err, c.want)
		}
	}
	for name, ok := range map[string]bool{"kilnbr0": true, "a": false, "br-lan.5": true, "much-too-long-name": false,
		"-x": false, "a/b": false, "lo": false, "": false, "a b": false} {
		if err := network.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestWithoutRights asks a daemon without CAP_NET_ADMIN for a network, and to take one away: it
// says what it needs, once, and all stays as it is.
func TestWithoutRights(t *testing.T) {
	n := network.Plan("tbr5", map[string]string{"ipv4.address": "10.99.11.1/24", "ipv4.nat": "true",
		"ipv6.address": "none"})
	n.Bridge = "tbr5"
	if err := n.Up("a"); err != nil {
		t.Fatal(err)
	}
	defer n.Down("a")
	without := func(f func() error) error {
		return thread.Run(func() error {
			head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var rights [2]unix.CapUserData
			if err := unix.Capget(&head, &rights[0]); err != nil {
				return err
			}
			rights[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err := unix.Capset(&head, &rights[0]); err != nil {
				return err
			}
			return f()
		})
	}
	other := n
	other.Name, other.Bridge = "tbr6", "tbr6"
	for what, f := range map[string]func() error{"make": func() error { return other.Up("a") },
		"remove": func() error { return n.Down("a") }} {
		err := without(f)
		if !errors.Is(err, kiln.Unsupported) || strings.Count(err.Error(), "not permitted") != 1 ||
			!strings.Contains(err.Error(), "let kiln "+what+" networks") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !n.Owns("a") {
		t.Error("it is gone")
	}
}
