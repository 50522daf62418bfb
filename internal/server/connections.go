package server

import (
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
	budget  budget // of all of them
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
		case l.conns.take(from):
			return newCounted(conn, &l.conns.budget, func() { l.conns.release(from) }), nil
		case l.conns.refuse():
			over := time.AfterFunc(refusalTime, func() { conn.Close() })
			c := newCounted(conn, &l.conns.budget, func() {
				over.Stop()
				l.conns.releaseRefused()
			})
			c.refused = true
			return c, nil
		}
		conn.Close()
	}
}
