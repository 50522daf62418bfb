package main

import (
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A proxy passes TCP connections on, counts what servers send, cuts the
// connection that carries one of some chosen bytes, and is as slow as it is told.
type proxy struct {
	listener net.Listener
	to       string
	sent     atomic.Int64
	wg       sync.WaitGroup

	mu   sync.Mutex
	cuts []int64   // of sent, in order
	rate float64   // bytes a second, of all connections; 0: as fast as it goes
	free time.Time // when the line has sent what it was given
}

// proxy starts one, until the end.
func (b *bench) proxy(to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.fail("%v", err)
	}
	p := &proxy{listener: l, to: to}
	p.wg.Go(p.run)
	b.ends = append(b.ends, func() { l.Close() })
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// reset starts to count anew, and has the first of the next size bytes cut at some
// random places.
func (p *proxy) reset(size int64, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = nil
	for range times {
		p.cuts = append(p.cuts, rand.Int64N(size))
	}
	slices.Sort(p.cuts)
	p.sent.Store(0)
}

func (p *proxy) run() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.pass(client) })
	}
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	// What a cut leaves in a buffer here was never on the line.
	_ = client.(*net.TCPConn).SetWriteBuffer(64 << 10)
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	p.wg.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	buf := make([]byte, 128<<10)
	for {
		n, err := server.Read(buf)
		left, cut := p.allowed(n)
		p.wait(left)
		written, werr := client.Write(buf[:left])
		p.sent.Add(int64(written))
		if cut {
			_ = client.(*net.TCPConn).SetLinger(0) // a reset, no proper end
		}
		if err != nil || werr != nil || cut {
			return
		}
	}
}

// allowed tells how many of the next bytes pass, and whether the connection is cut
// after them.
func (p *proxy) allowed(n int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent := p.sent.Load()
	if len(p.cuts) == 0 || sent+int64(n) < p.cuts[0] {
		return n, false
	}
	left := max(p.cuts[0]-sent, 0)
	p.cuts = p.cuts[1:]
	return int(left), true
}

// limit makes the line a slow one.
func (p *proxy) limit(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

// wait takes as long as the line takes for n bytes.
func (p *proxy) wait(n int) {
	p.mu.Lock()
	if p.rate == 0 {
		p.mu.Unlock()
		return
	}
	if now := time.Now(); p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	until := p.free
	p.mu.Unlock()
	time.Sleep(time.Until(until))
}
