package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"
)

func sample() *Network {
	n := Plan("kilnbr0", map[string]string{"ipv4.address": "10.1.2.1/24", "ipv6.address": "fd42::1/64", "bridge.mtu": "1400"})
	n.Hosts = []Host{{Name: "c1", MAC: "02:00:00:00:00:01", IPv4: netip.MustParseAddr("10.1.2.9"),
		IPv6: netip.MustParseAddr("fd42::9")}}
	return &n
}

func TestDHCP(t *testing.T) {
	n := sample()
	known, stranger := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	message := func(mac net.HardwareAddr, kind dhcpv4.MessageType, with ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		m, err := dhcpv4.New(append(with, dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind))...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	asks := func(a string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(a).To4()))
	}
	to := func(a string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(a).To4()))
	}
	for name, c := range map[string]struct {
		m    *dhcpv4.DHCPv4
		want dhcpv4.MessageType // 0: no answer
	}{
		"discover": {message(known, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer},
		"request":  {message(known, dhcpv4.MessageTypeRequest, asks("10.1.2.9")), dhcpv4.MessageTypeAck},
		"renew": {message(known, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP{10, 1, 2, 9})),
			dhcpv4.MessageTypeAck},
		"another address":  {message(known, dhcpv4.MessageTypeRequest, asks("10.1.2.10")), dhcpv4.MessageTypeNak},
		"no address":       {message(known, dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak},
		"inform":           {message(known, dhcpv4.MessageTypeInform), dhcpv4.MessageTypeAck},
		"release":          {message(known, dhcpv4.MessageTypeRelease), 0},
		"another server's": {message(known, dhcpv4.MessageTypeRequest, asks("10.1.2.9"), to("10.1.2.2")), 0},
		"a stranger":       {message(stranger, dhcpv4.MessageTypeDiscover), 0},
		"relayed":          {message(known, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IP{10, 1, 2, 3})), 0},
	} {
		a := n.dhcp(c.m)
		if a == nil && c.want != 0 || a != nil && a.MessageType() != c.want {
			t.Errorf("%s: %v", name, a)
		}
	}
}

// FuzzDHCP has whatever a container sends answered or not, without a crash, and never
// with an address that isn't the sender's.
func FuzzDHCP(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 1}), dhcpv4.WithMessageType(kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.ToBytes())
	}
	n := sample()
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		if a := n.dhcp(m); a != nil {
			if !a.YourIPAddr.IsUnspecified() && (!a.YourIPAddr.Equal(net.IP{10, 1, 2, 9}) ||
				m.ClientHWAddr.String() != n.Hosts[0].MAC) {
				t.Errorf("%v was given %v", m.ClientHWAddr, a.YourIPAddr)
			}
			a.ToBytes()
		}
	})
}

// FuzzDNS has whatever a container asks answered in a message that can be sent.
func FuzzDNS(f *testing.F) {
	for name, kind := range map[string]uint16{"c1.kiln.": dns.TypeA, "c1.": dns.TypeAAAA,
		"9.2.1.10.in-addr.arpa.": dns.TypePTR, "example.org.": dns.TypeMX, ".": dns.TypeNS} {
		var m dns.Msg
		m.SetQuestion(name, kind)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	n := sample()
	f.Fuzz(func(t *testing.T, b []byte) {
		var q dns.Msg
		if err := q.Unpack(b); err != nil || len(q.Question) != 1 {
			return
		}
		if a := n.answer(&q); a != nil {
			if _, err := a.Pack(); err != nil {
				t.Errorf("the answer to %v: %v", q.Question, err)
			}
		}
	})
}

// FuzzSolicitation has what a container sends to routers parsed without a crash.
func FuzzSolicitation(f *testing.F) {
	b, err := ndp.MarshalMessage(&ndp.RouterSolicitation{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	b, err = ndp.MarshalMessage(sample().advertisement(net.HardwareAddr{2, 0, 0, 0, 0, 1}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = ndp.ParseMessage(b) })
}

// TestShare has nobody take what is others'.
func TestShare(t *testing.T) {
	s := share{all: 3, each: 2}
	one, two := &net.UDPAddr{IP: net.IP{10, 0, 0, 1}}, &net.UDPAddr{IP: net.IP{10, 0, 0, 2}}
	give, ok := s.take(one)
	if _, again := s.take(one); !ok || !again {
		t.Fatal("the first is refused")
	}
	if _, ok := s.take(one); ok {
		t.Error("one address has more than its part")
	}
	if _, ok := s.take(two); !ok {
		t.Error("the second gets nothing")
	}
	if _, ok := s.take(two); ok {
		t.Error("there is more than all")
	}
	give()
	give()
	if _, ok := s.take(two); !ok {
		t.Error("what was given back is gone")
	}
	if _, ok := s.take(one); ok {
		t.Error("what was given back once is there twice")
	}
}
