package network_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/network"
)

// packets opens a socket for all frames of an interface.
func packets(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.ETH_P_ALL<<8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	to := unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: ifi.Index}
	if err := unix.Bind(fd, &to); err != nil {
		t.Fatal(err)
	}
	second := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second); err != nil {
		t.Fatal(err)
	}
	return fd
}

// frame is one to everybody, of the least length.
func frame(from net.HardwareAddr, kind uint16, body ...[]byte) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, from...)
	f = append(f, byte(kind>>8), byte(kind))
	f = append(f, bytes.Join(body, nil)...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func arp(from, sender net.HardwareAddr, ip string) []byte {
	return frame(from, unix.ETH_P_ARP, []byte{0, 1, 8, 0, 6, 4, 0, 1}, sender, netip.MustParseAddr(ip).AsSlice(),
		make([]byte, 10))
}

func ip4(from net.HardwareAddr, source, target string) []byte {
	head := append([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0}, netip.MustParseAddr(source).AsSlice()...)
	head = append(head, netip.MustParseAddr(target).AsSlice()...)
	sum := 0
	for i := 0; i < len(head); i += 2 {
		sum += int(head[i])<<8 | int(head[i+1])
	}
	sum = ^(sum&0xffff + sum>>16)
	head[10], head[11] = byte(sum>>8), byte(sum)
	return frame(from, unix.ETH_P_IP, head)
}

// same reports whether what came is a frame as it was sent, but for its tag and what filled
// it up.
func same(came, sent []byte) bool {
	untagged := append(bytes.Clone(sent[:12]), sent[16:]...)
	return len(came) > 30 && (bytes.HasPrefix(sent, came) || bytes.Equal(untagged, came))
}

func ip6(from net.HardwareAddr, source string, icmp ...byte) []byte {
	return frame(from, unix.ETH_P_IPV6, []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255},
		netip.MustParseAddr(source).AsSlice(), netip.MustParseAddr("ff02::1").AsSlice(), icmp)
}

// advertisement says that an address is at a hardware address (RFC 4861, section 4.4).
func advertisement(from net.HardwareAddr, source, target string, at net.HardwareAddr) []byte {
	body := append([]byte{136, 0, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr(target).AsSlice()...)
	return ip6(from, source, append(append(body, 2, 1), at...)...)
}

func TestParseRate(t *testing.T) {
	for v, want := range map[string]uint64{"8": 1, "800bit": 100, "8kbit": 1000, "10Mbit": 1_250_000, "1Gibit": 1 << 27,
		"": 0, "7": 0, "x": 0, "10MB": 0, "-1Mbit": 0, "99999999999Gbit": 0, "4000000000Tbit": 0} {
		if got, err := network.ParseRate(v); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", v, got, err)
		}
	}
}

// TestFilter sends frames as an instance that lies.
func TestFilter(t *testing.T) {
	_, _, mac := onNetwork(t, "tbrf")
	in, out := packets(t, "tbrfi"), packets(t, "tbrf")
	const v4, v6, local = "10.99.7.23", "fd42:1:2:3::23", "fe80::23"
	other := network.MAC("other", "x")
	type sent struct {
		what            string
		frame           []byte
		mac, ipv4, ipv6 bool // whether it passes a filter of that
	}
	list := []sent{
		{"own ARP", arp(mac, mac, v4), true, true, true},
		{"from another", arp(other, mac, v4), false, true, true},
		{"ARP for another", arp(mac, other, v4), false, true, true},
		{"ARP with another address", arp(mac, mac, "10.99.7.24"), true, false, true},
		{"ARP probe", arp(mac, mac, "0.0.0.0"), true, true, true},
		{"own IPv4", ip4(mac, v4, "10.99.7.1"), true, true, true},
		{"another's IPv4", ip4(mac, "10.99.7.24", "10.99.7.1"), true, false, true},
		{"request by DHCP", ip4(mac, "0.0.0.0", "255.255.255.255"), true, true, true},
		{"IPv4 from nowhere", ip4(mac, "0.0.0.0", "10.99.7.1"), true, false, true},
		{"tagged", frame(mac, unix.ETH_P_8021Q, []byte{0, 5, 8, 0}), true, false, false},
		{"own IPv6", ip6(mac, v6, 128, 0, 0, 0), true, true, true},
		{"local IPv6", ip6(mac, local, 128, 0, 0, 0), true, true, true},
		{"IPv6 from nowhere", ip6(mac, "::", 135, 0, 0, 0), true, true, true},
		{"another's IPv6", ip6(mac, "fd42:1:2:3::24", 128, 0, 0, 0), true, true, false},
		{"router", ip6(mac, local, 134, 0, 0, 0), true, true, false},
		{"neighbour", advertisement(mac, v6, v6, mac), true, true, true},
		{"neighbour elsewhere", advertisement(mac, v6, v6, other), false, true, true},
		{"another as neighbour", advertisement(mac, v6, "fd42:1:2:3::24", mac), true, true, false},
	}
	last := frame(mac, 0x88b5, []byte("last")) // of no protocol
	passed := func() map[string]bool {
		t.Helper()
		for _, s := range append(list, sent{frame: last}) {
			if _, err := unix.Write(in, s.frame); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]bool{}
		for buf := make([]byte, 2048); ; {
			n, err := unix.Read(out, buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				t.Fatalf("the last frame didn't come: %v", err)
			}
			if bytes.Equal(buf[:n], last) {
				return got
			}
			for _, s := range list {
				if same(buf[:n], s.frame) {
					got[s.what] = true
				}
			}
		}
	}
	f := network.Filter{Port: "tbrfp"}
	addresses := f
	addresses.IPv4, addresses.IPv6 = netip.MustParseAddr(v4), netip.MustParseAddr(v6)
	checkMAC, check4, check6 := f, addresses, addresses
	checkMAC.MAC, check4.CheckIPv4, check6.CheckIPv6 = mac, true, true
	for name, c := range map[string]struct {
		filter network.Filter
		passes func(sent) bool
	}{
		"none": {f, func(sent) bool { return true }},
		"mac":  {checkMAC, func(s sent) bool { return s.mac }},
		"ipv4": {check4, func(s sent) bool { return s.ipv4 }},
		"ipv6": {check6, func(s sent) bool { return s.ipv6 }},
	} {
		if err := c.filter.Set(); err != nil {
			t.Fatal(err)
		}
		got := passed()
		for _, s := range list {
			if got[s.what] != c.passes(s) {
				t.Errorf("filter %s: %s passes: %v", name, s.what, got[s.what])
			}
		}
	}
	for range 2 {
		if err := network.RemoveFilter("tbrfp"); err != nil {
			t.Fatal(err)
		}
	}
	if got := passed(); len(got) != len(list) {
		t.Errorf("without a filter %d of %d pass", len(got), len(list))
	}
	// A bound lets a burst through, and then little.
	f.Egress = 1000
	if err := f.Set(); err != nil {
		t.Fatal(err)
	}
	defer network.RemoveFilter("tbrfp")
	big := frame(mac, 0x88b5, make([]byte, 1400))
	came := 0
	for range 1000 {
		if _, err := unix.Write(in, big); err != nil {
			t.Fatal(err)
		}
	}
	for buf := make([]byte, 2048); ; came++ {
		if n, err := unix.Read(out, buf); err != nil && err != unix.EINTR || n == 0 {
			break
		}
	}
	if came < 50 || came > 400 { // a full socket drops some of the burst
		t.Errorf("%d of 1000 frames came through a bound of 256 KiB at once and 1 kB a second", came)
	}
}
