package network

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	raPeriod   = 200 * time.Second
	raLifetime = 30 * time.Minute       // of the router, RFC 4861
	raPrefix   = 7 * 24 * time.Hour     // of the prefix: addresses outlive the sleep of a host
	raQuiet    = 100 * time.Millisecond // between answers to everybody
)

func serveRA(s *served, ifi *net.Interface) (io.Closer, error) {
	conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return nil, err
	}
	if err := conn.JoinGroup(netip.MustParseAddr("ff02::2")); err != nil {
		conn.Close()
		return nil, err
	}
	r := &router{s: s, conn: conn, hardware: ifi.HardwareAddr, end: make(chan struct{})}
	r.wg.Go(r.answer)
	r.wg.Go(r.advertise)
	return r, nil
}

// A router tells the instances on a bridge which IPv6 prefix they are in.
type router struct {
	s        *served
	conn     *ndp.Conn
	hardware net.HardwareAddr
	end      chan struct{}
	wg       sync.WaitGroup
}

func (r *router) Close() error {
	close(r.end)
	err := r.conn.Close()
	r.wg.Wait()
	return err
}

// all is the group of every host on the bridge.
func (r *router) all() netip.Addr {
	return netip.MustParseAddr("ff02::1").WithZone(r.s.now.Load().Bridge)
}

func (r *router) advertise() {
	for {
		_ = r.conn.WriteTo(r.s.now.Load().advertisement(r.hardware), nil, r.all()) // the next one comes
		select {
		case <-r.end:
			return
		case <-time.After(raPeriod):
		}
	}
}

// answer sends advertisements to who asks: one that asks without end gets what it
// asks for, and the others nothing of it.
func (r *router) answer() {
	var last time.Time
	for {
		m, _, from, err := r.conn.ReadFrom()
		select {
		case <-r.end:
			return
		default:
		}
		if err != nil { // also for what is no message
			time.Sleep(time.Millisecond)
			continue
		}
		if _, ok := m.(*ndp.RouterSolicitation); !ok {
			continue
		}
		if from.IsUnspecified() {
			if time.Since(last) < raQuiet {
				continue
			}
			last, from = time.Now(), r.all()
		}
		_ = r.conn.WriteTo(r.s.now.Load().advertisement(r.hardware), nil, from) // it asks again
	}
}

// advertisement says what hosts are to know of a network (RFC 4861, RFC 8106).
func (n *Network) advertisement(hardware net.HardwareAddr) *ndp.RouterAdvertisement {
	ra := &ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: raLifetime, Options: []ndp.Option{
		&ndp.PrefixInformation{PrefixLength: uint8(n.IPv6.Bits()), OnLink: true, AutonomousAddressConfiguration: true,
			ValidLifetime: raPrefix, PreferredLifetime: raPrefix, Prefix: n.IPv6.Masked().Addr()},
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hardware},
	}}
	if n.MTU > 0 {
		ra.Options = append(ra.Options, &ndp.MTU{MTU: uint32(n.MTU)})
	}
	if n.DNS && n.DNSPort == dnsPort {
		ra.Options = append(ra.Options,
			&ndp.RecursiveDNSServer{Lifetime: raLifetime, Servers: []netip.Addr{n.IPv6.Addr()}},
			&ndp.DNSSearchList{Lifetime: raLifetime, DomainNames: []string{n.Domain}})
	}
	return ra
}
