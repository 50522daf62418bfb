package server

import (
	linked "container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/kiln-containers/kiln"
)

// What untrusted clients may have sent that isn't answered yet, in bytes: handshakes,
// headers and bodies are in memory until then. Each connection has a part of its own,
// which is enough for what an honest client sends; what is beyond comes out of one budget
// for all of them.
const (
	untrustedFree   = 8 << 10
	untrustedBudget = 16 << 20
)

// A budget is bytes that many share. The zero value has untrustedBudget of them.
type budget struct {
	mu   sync.Mutex
	used int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > untrustedBudget {
		return false
	}
	b.used += n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// counted is a connection that gives its place back when it is closed, and what it has of
// the budget.
type counted struct {
	net.Conn
	refused bool // there is no room for it
	budget  *budget
	conns   *connections // that it is one of; nil: it is refused
	from    string       // the other's address

	place *linked.Element // in conns.waiting; conns.mu is held
	kept  bool            // it never waits again; conns.mu is held

	mu     sync.Mutex
	closed bool
	ends   []func() // called once, when it is closed
	free   bool     // what is sent isn't counted
	read   int64    // bytes since the last answer
	taken  int64    // of the budget
}

func newCounted(c net.Conn, b *budget) *counted { return &counted{Conn: c, budget: b} }

// begin says that a request is being answered, until the function is called that it gives:
// then the connection waits for the next one, if that isn't a trusted client's.
func (c *counted) begin() (end func(trusted bool)) {
	c.conns.keep(c, false)
	return func(trusted bool) {
		if !trusted {
			c.conns.wait(c)
		}
	}
}

// Read implements net.Conn. The error is Busy when untrusted clients have sent too much.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.count(int64(n)) {
		return 0, kiln.Errorf(kiln.Busy, "the server has more of requests of untrusted clients than it may have; try again "+
			"later")
	}
	return n, err
}

func (c *counted) count(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free {
		return true
	}
	c.read += n
	more := c.read - untrustedFree - c.taken
	if more <= 0 {
		return true
	}
	if !c.budget.take(more) {
		return false
	}
	c.taken += more
	return true
}

// setFree says whether what comes is counted: not what somebody reads who keeps nothing
// of it, nor what a client sends who is trusted.
func (c *counted) setFree(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free = on; on {
		c.settle()
	}
}

// answered gives back what the connection has of the budget. What comes next is free, or
// counted again.
func (c *counted) answered(free bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = free
	c.settle()
}

func (c *counted) settle() {
	c.budget.give(c.taken)
	c.read, c.taken = 0, 0
}

// atClose has f called when the connection is closed; at once if it is.
func (c *counted) atClose(f func()) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.ends = append(c.ends, f)
	}
	c.mu.Unlock()
	if closed {
		f()
	}
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.mu.Lock()
	ends := c.ends
	c.closed, c.ends = true, nil
	c.free = true
	c.settle()
	c.mu.Unlock()
	for _, f := range ends {
		f()
	}
	return c.Conn.Close()
}

type connKey struct{}

// withConn says in the context of a connection's requests what is known of it.
func withConn(ctx context.Context, c net.Conn) context.Context {
	switch inner := inmost(c).(type) {
	case *counted:
		return context.WithValue(ctx, connKey{}, inner)
	case *net.UnixConn:
		return withLocalUser(ctx, inner)
	}
	return ctx
}

// inmost gives what a connection is without TLS and the like.
func inmost(c net.Conn) net.Conn {
	for {
		switch outer := c.(type) {
		case *tls.Conn:
			c = outer.NetConn()
		case patientConn:
			c = outer.Conn
		default:
			return c
		}
	}
}

// connState hears of connections that are for requests no more.
func connState(c net.Conn, state http.ConnState) {
	if inner, ok := inmost(c).(*counted); ok && inner.conns != nil && state == http.StateHijacked {
		inner.conns.keep(inner, true)
	}
}

// connOf gives the connection of a request from the network; nil for others.
func connOf(ctx context.Context) *counted {
	c, _ := ctx.Value(connKey{}).(*counted)
	return c
}

// streamed says that what a request still brings isn't kept in memory.
func streamed(r *http.Request) {
	if c := connOf(r.Context()); c != nil {
		c.setFree(true)
	}
}
