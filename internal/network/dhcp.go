package network

import (
	"io"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

// leaseTime is how long an address is an instance's if it doesn't ask again; it is its
// own for as long as it exists. The sleep of a laptop is shorter.
const leaseTime = 7 * 24 * time.Hour

func serveDHCP(s *served) (io.Closer, error) {
	server, err := server4.NewServer(s.now.Load().Bridge, &net.UDPAddr{IP: net.IPv4zero, Port: dhcpv4.ServerPort},
		func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
			if answer := s.now.Load().dhcp(m); answer != nil {
				_, _ = conn.WriteTo(answer.ToBytes(), peer) // who gets none asks again
			}
		})
	if err != nil {
		return nil, err
	}
	go func() { _ = server.Serve() }() // until Close
	return server, nil
}

// dhcp answers a message of DHCP (RFC 2131); nil: it isn't answered. Only instances
// that have a lease are given an address, so a flood of requests takes none.
func (n *Network) dhcp(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	host, ok := n.host(m.ClientHWAddr.String())
	if m.OpCode != dhcpv4.OpcodeBootRequest || !ok || !host.IPv4.IsValid() || m.GatewayIPAddr != nil &&
		!m.GatewayIPAddr.IsUnspecified() {
		return nil
	}
	bridge := net.IP(n.IPv4.Addr().AsSlice())
	if id := m.ServerIdentifier(); id != nil && !id.Equal(bridge) {
		return nil // it took another server's offer
	}
	var kind dhcpv4.MessageType
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
		asked := m.RequestedIPAddress()
		if asked == nil {
			asked = m.ClientIPAddr
		}
		if !asked.Equal(host.IPv4.AsSlice()) {
			kind = dhcpv4.MessageTypeNak
		}
	case dhcpv4.MessageTypeInform:
		kind = dhcpv4.MessageTypeAck
	default: // a release or a refusal changes nothing
		return nil
	}
	with := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(bridge),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(bridge))}
	if kind != dhcpv4.MessageTypeNak {
		with = append(with, n.dhcpOptions()...)
	}
	if kind != dhcpv4.MessageTypeNak && m.MessageType() != dhcpv4.MessageTypeInform {
		with = append(with, dhcpv4.WithYourIP(host.IPv4.AsSlice()), dhcpv4.WithLeaseTime(uint32(leaseTime.Seconds())))
	}
	answer, err := dhcpv4.NewReplyFromRequest(m, with...)
	if err != nil {
		return nil // and nothing is written: a container could fill the disk with it
	}
	return answer
}

// dhcpOptions say how the network is to be used.
func (n *Network) dhcpOptions() []dhcpv4.Modifier {
	bridge := net.IP(n.IPv4.Addr().AsSlice())
	with := []dhcpv4.Modifier{
		dhcpv4.WithNetmask(net.CIDRMask(n.IPv4.Bits(), 32)), dhcpv4.WithRouter(bridge),
		dhcpv4.WithOption(dhcpv4.OptBroadcastAddress(lastAddr(n.IPv4).AsSlice())),
	}
	if n.DNS {
		with = append(with, dhcpv4.WithDNS(bridge), dhcpv4.WithOption(dhcpv4.OptDomainName(n.Domain)),
			dhcpv4.WithDomainSearchList(n.Domain))
	}
	if n.MTU > 0 {
		with = append(with, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU,
			[]byte{byte(n.MTU >> 8), byte(n.MTU)})))
	}
	return with
}
