package server

import (
	linked "container/list"
	"net"
	"sync"
	"time"
)

// How many connections the network may hold, in all and from one address. The rest of
// the files that a process may have open is for everything else, the socket among it.
const (
	mostConnections = 4096
	mostFromOne     = 2048 // a site behind one address has many machines
	// mostRefused bounds the connections beyond these that are told so. Others are closed
	// without a word: an answer costs a handshake.
	mostRefused = 64
)

// refusalTime is how long somebody may take to ask, and be told that there is no room.
const refusalTime = 5 * time.Second

// retryAfter is when a busy server may be asked again, in seconds.
const retryAfter = "2"

// connections counts those that are open.
type connections struct {
	mu      sync.Mutex
	all     int
	from    map[string]int // by the other's address
	refused int
	waiting linked.List // *counted, the longest first: without a request, of nobody who is trusted
	budget  budget      // of all of them
}

// take makes room for a connection, if there is any.
func (c *connections) take(from string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= mostConnections || c.from[from] >= mostFromOne {
		return false
	}
	if c.from == nil {
		c.from = map[string]int{}
	}
	c.all++
	c.from[from]++
	return true
}

// wait has a connection be one that may be closed when there is no room for another.
func (c *connections) wait(conn *counted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.place == nil && !conn.kept {
		conn.place = c.waiting.PushBack(conn)
	}
}

// keep ends wait: for as long as a request is answered, or, for ever, when the connection
// isn't for requests any more or has ended.
func (c *connections) keep(conn *counted, ever bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.place != nil {
		c.waiting.Remove(conn.place)
		conn.place = nil
	}
	conn.kept = conn.kept || ever
}

// makeRoom closes the connection that waits longest for its next request: one from an
// address that has as many as it may have, else any. So whoever only holds connections
// keeps nobody out. It reports whether there was one.
func (c *connections) makeRoom(from string) bool {
	c.mu.Lock()
	var found *counted
	for e := c.waiting.Front(); e != nil && found == nil; e = e.Next() {
		if conn := e.Value.(*counted); c.from[from] < mostFromOne || conn.from == from {
			found = conn
		}
	}
	c.mu.Unlock()
	if found == nil {
		return false
	}
	found.Close()
	return true
}

func (c *connections) release(from string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.from[from]--; c.from[from] == 0 {
		delete(c.from, from)
	}
}

// refuse makes room for telling one more that there is none, if that can be done.
func (c *connections) refuse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused >= mostRefused {
		return false
	}
	c.refused++
	return true
}

func (c *connections) releaseRefused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused--
}

// listener gives the connections that there is room for, and some that are to be refused.
func (c *connections) listener(l net.Listener) net.Listener { return counting{l, c} }

type counting struct {
	net.Listener
	conns *connections
}

// Accept implements net.Listener.
func (l counting) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := host(conn.RemoteAddr().String())
		switch {
		case l.conns.take(from), l.conns.makeRoom(from) && l.conns.take(from):
			c := newCounted(conn, &l.conns.budget)
			c.conns, c.from = l.conns, from
			c.atClose(func() {
				l.conns.keep(c, true)
				l.conns.release(from)
			})
			l.conns.wait(c)
			return c, nil
		case l.conns.refuse():
			over := time.AfterFunc(refusalTime, func() { conn.Close() })
			c := newCounted(conn, &l.conns.budget)
			c.refused = true
			c.atClose(func() {
				over.Stop()
				l.conns.releaseRefused()
			})
			return c, nil
		}
		conn.Close()
	}
}
