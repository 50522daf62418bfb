package server

import (
	"net"
	"sync"
)

// How many connections the network may hold, in all and from one address. The rest of
// the files that a process may have open is for everything else, the socket among it.
const (
	mostConnections = 4096
	mostFromOne     = 2048 // a site behind one address has many machines
)

// connections counts those that are open.
type connections struct {
	mu   sync.Mutex
	all  int
	from map[string]int // by the other's address
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

// listener closes at once what there is no room for.
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
		if l.conns.take(from) {
			return &counted{Conn: conn, release: func() { l.conns.release(from) }}, nil
		}
		conn.Close()
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	once    sync.Once
	release func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}
