package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
)

// Listeners is the server on addresses that can change while it runs.
type Listeners struct {
	s     *Server
	ctx   context.Context // of the daemon
	wg    sync.WaitGroup
	conns connections

	mu   sync.Mutex
	open map[string]context.CancelFunc // by address
}

// Listeners makes the server able to listen on addresses, until ctx ends.
func (s *Server) Listeners(ctx context.Context) *Listeners {
	return &Listeners{s: s, ctx: ctx, open: map[string]context.CancelFunc{}}
}

// Listen listens on some addresses and no others from now on. When one of them
// can't be had, nothing changes. Connections on an address that is given up end.
// The error is Conflict or Invalid.
func (n *Listeners) Listen(addresses []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	added := map[string]net.Listener{}
	for _, a := range addresses {
		if _, ok := n.open[a]; ok || added[a] != nil {
			continue
		}
		l, err := net.Listen("tcp", a)
		if err != nil {
			for _, l := range added {
				err = errors.Join(err, l.Close())
			}
			return kiln.Errorf(kiln.Invalid, "listen on %s: %w", a, err)
		}
		added[a] = l
	}
	for a, stop := range n.open {
		if !slices.Contains(addresses, a) {
			stop()
			delete(n.open, a)
		}
	}
	for a, l := range added {
		ctx, stop := context.WithCancel(n.ctx)
		n.open[a] = stop
		n.wg.Go(func() {
			bounded := n.conns.listener(l)
			if err := n.s.Serve(ctx, tls.NewListener(patient{bounded}, n.s.tls())); err != nil && ctx.Err() == nil {
				n.s.log.Error("listen on the network", "address", a, "err", err)
			}
		})
		n.s.log.Info("listening", "address", a)
	}
	return nil
}

// Wait waits until nobody listens any more, which the end of the context brings.
func (n *Listeners) Wait() { n.wg.Wait() }

// tls is how the server introduces itself. Clients may show a certificate; whether
// it is trusted is decided for each request.
func (s *Server) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.d.Certificate()},
		ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"},
	}
}

// sendTime is how long a client may leave a piece of an answer lying.
const sendTime = time.Minute

// patient gives up clients that don't take what they asked for.
type patient struct{ net.Listener }

// Accept is net.Listener's.
func (p patient) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return patientConn{c}, nil
}

type patientConn struct{ net.Conn }

// Write is net.Conn's.
func (c patientConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
