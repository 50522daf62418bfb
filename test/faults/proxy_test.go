package faults

import (
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A fault is what goes wrong with a connection, counted in bytes of the answers.
// The zero value is a good connection.
type fault struct {
	cut     int64 // after so many bytes it ends
	reset   bool  // … by a reset
	stall   int64 // after so many bytes nothing comes any more
	corrupt int64 // this byte is another one
	rate    int64 // bytes a second
	up      int64 // after so many bytes of the requests it ends
}

// A proxy passes connections on to a server, as badly as it is told to.
type proxy struct {
	address     string
	to          string
	connections atomic.Int64
	bytes       atomic.Int64 // of the answers, as far as they were passed on
	l           net.Listener
	wg          sync.WaitGroup

	mu     sync.Mutex
	choose func(n int) fault // of the connection n, from 0; nil: good
	n      int
	open   map[net.Conn]bool
	closed bool
}

// newProxy starts a proxy, which ends with the test.
func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{to: to, open: map[net.Conn]bool{}}
	p.listen(t, "127.0.0.1:0")
	p.address = p.l.Addr().String()
	t.Cleanup(p.down)
	return p
}

func (p *proxy) listen(t *testing.T, address string) {
	t.Helper()
	var err error
	if p.l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.closed = false
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			c, err := p.l.Accept()
			if err != nil {
				return
			}
			p.connections.Add(1)
			p.wg.Go(func() { p.pass(c) })
		}
	})
}

// down refuses connections from now on, and ends those that are open.
func (p *proxy) down() {
	p.l.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// up is back from down.
func (p *proxy) up(t *testing.T) { t.Helper(); p.listen(t, p.address) }

// set chooses what happens to connections from now on, the first of which is 0. Those
// that are open, and that clients keep for their next request, end.
func (p *proxy) set(choose func(n int) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.choose, p.n = choose, 0
	for c := range p.open {
		c.Close()
	}
}

// every is set with the same for all.
func (p *proxy) every(f fault) { p.set(func(int) fault { return f }) }

// count gives the bytes that f causes to come.
func (p *proxy) count(f func()) int64 {
	before := p.bytes.Load()
	f()
	return p.bytes.Load() - before
}

// keep remembers a connection for down to end.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.open[c] = true
	return true
}

func (p *proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *proxy) pass(client net.Conn) {
	p.mu.Lock()
	var f fault
	if p.choose != nil {
		f = p.choose(p.n)
	}
	p.n++
	p.mu.Unlock()
	if !p.keep(client) {
		return
	}
	defer p.forget(client)
	server, err := net.Dial("tcp", p.to)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.forget(server)
	p.wg.Go(func() {
		var most int64 = math.MaxInt64
		if f.up > 0 {
			most = f.up
		}
		_, _ = io.CopyN(server, client, most) // either may end
		server.Close()
	})
	p.answers(client, server, f)
}

// answers passes the server's bytes on.
func (p *proxy) answers(client, server net.Conn, f fault) {
	buf := make([]byte, 16<<10)
	for sent := int64(0); ; {
		most := int64(len(buf))
		if f.cut > 0 {
			most = min(most, f.cut-sent)
		}
		if f.stall > 0 {
			most = min(most, f.stall-sent)
		}
		n, err := server.Read(buf[:most])
		if i := f.corrupt - sent; f.corrupt > 0 && i >= 0 && i < int64(n) {
			buf[i] ^= 0xff
		}
		m, werr := client.Write(buf[:n])
		p.bytes.Add(int64(m))
		sent += int64(m)
		switch {
		case err != nil || werr != nil:
			return
		case f.cut > 0 && sent >= f.cut:
			if tcp, ok := client.(*net.TCPConn); ok && f.reset {
				_ = tcp.SetLinger(0)
			}
			return
		case f.stall > 0 && sent >= f.stall:
			_, _ = client.Read(make([]byte, 1)) // until somebody has enough
			return
		}
		if f.rate > 0 {
			time.Sleep(time.Duration(int64(n) * int64(time.Second) / f.rate))
		}
	}
}
