package network

import (
	"io"
	"net/netip"
	"testing"
)

// shut is a service that a test sees closed.
type shut bool

func (s *shut) Close() error { *s = true; return nil }

// TestUpdate has networks change while they are served: who is told another address, or has
// another interface, is served anew, and new hosts are no reason for that.
func TestUpdate(t *testing.T) {
	d := daemon{served: map[string]*served{}}
	n := Network{Name: "n", Bridge: "lo"}
	d.update([]Network{n})
	for _, c := range []struct {
		what   string
		change func()
		anew   bool
	}{
		{"nothing", func() {}, false},
		{"hosts", func() { n.Hosts = []Host{{Name: "c1"}} }, false},
		{"the address", func() { n.IPv4 = netip.MustParsePrefix("10.1.2.1/24") }, true},
		{"the interface", func() { d.served["n"].index++ }, true},
	} {
		before, closed := d.served["n"], new(shut)
		before.open = map[string]io.Closer{"a service": closed}
		c.change()
		d.update([]Network{n})
		now := d.served["n"]
		if (now != before) != c.anew || bool(*closed) != c.anew {
			t.Errorf("%s changed: anew %v, closed %v", c.what, now != before, *closed)
		}
		if got := len(now.now.Load().Hosts); got != len(n.Hosts) {
			t.Errorf("%s changed: it has %d hosts", c.what, got)
		}
	}
	closed := new(shut)
	d.served["n"].open = map[string]io.Closer{"a service": closed}
	d.update(nil)
	if len(d.served) != 0 || !*closed {
		t.Errorf("what isn't wanted is served: %d, closed %v", len(d.served), *closed)
	}
}
