package network

import (
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/kiln-containers/kiln/internal/sibling"
)

// Main is netd: it serves the networks of its directory until it gets SIGTERM, or the
// directory is gone.
func Main() error {
	d := daemon{served: map[string]*served{}}
	defer d.close()
	return sibling.Serve(func(root *os.Root) { d.update(readNetworks(root)) })
}

// daemon is what netd serves at a time, by the names of networks.
type daemon struct{ served map[string]*served }

// served is a network with its open sockets.
type served struct {
	now   atomic.Pointer[Network]
	index int // of the interface
	open  map[string]io.Closer
	said  map[string]string // what was logged of each service that doesn't work
}

func (d *daemon) update(list []Network) {
	keep := map[string]bool{}
	for _, n := range list {
		ifi, err := net.InterfaceByName(n.Bridge)
		if err != nil {
			continue // not yet, or not any more
		}
		keep[n.Name] = true
		s := d.served[n.Name]
		if s != nil && (s.index != ifi.Index || s.moved(n)) {
			s.close()
			s = nil
		}
		if s == nil {
			s = &served{index: ifi.Index, open: map[string]io.Closer{}, said: map[string]string{}}
			d.served[n.Name] = s
		}
		s.now.Store(&n)
		s.listen(ifi)
	}
	maps.DeleteFunc(d.served, func(name string, s *served) bool {
		if !keep[name] {
			s.close()
		}
		return !keep[name]
	})
}

func (d *daemon) close() { d.update(nil) }

// moved reports whether a network is served elsewhere now: all but its hosts matters.
func (s *served) moved(n Network) bool {
	was := *s.now.Load()
	was.Hosts, n.Hosts = nil, nil
	return !reflect.DeepEqual(was, n)
}

func (s *served) close() {
	for _, c := range s.open {
		_ = c.Close()
	}
}

// listen opens what isn't open yet. One service that can't be is no reason against the
// others.
func (s *served) listen(ifi *net.Interface) {
	n := s.now.Load()
	services := map[string]func() (io.Closer, error){}
	if n.DHCP && n.IPv4.IsValid() {
		services["dhcp"] = func() (io.Closer, error) { return serveDHCP(s) }
	}
	if n.IPv6.IsValid() {
		services["router advertisements"] = func() (io.Closer, error) { return serveRA(s, ifi) }
	}
	if n.DNS {
		for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
			if p.IsValid() && (p.Addr().Is4() || n.DNSPort == dnsPort) {
				services["dns at "+p.Addr().String()] = func() (io.Closer, error) { return serveDNS(s, p.Addr()) }
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if s.open[name] != nil {
			continue
		}
		c, err := services[name]()
		if err == nil {
			s.open[name] = c
			err = errors.New("served")
		}
		if text := err.Error(); s.said[name] != text {
			s.said[name] = text
			log.Printf("network %s: %s: %s", n.Name, name, text)
		}
	}
}

// host finds who has a hardware address.
func (n *Network) host(mac string) (Host, bool) {
	for _, h := range n.Hosts {
		if h.MAC == mac {
			return h, true
		}
	}
	return Host{}, false
}
