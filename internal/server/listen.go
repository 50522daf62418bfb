package server

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// Listeners is the server on addresses that can change while it runs.
type Listeners struct {
	s     *Server
	ctx   context.Context // of the daemon
	by    http.Handler    // what they lead to
	wg    sync.WaitGroup
	conns connections

	mu   sync.Mutex
	open map[string]*listener // by address
}

// A listener is one address that is listened on.
type listener struct {
	*net.TCPListener
	stop context.CancelFunc // ends its connections
}

// Listeners makes the server able to listen on addresses, until ctx ends.
func (s *Server) Listeners(ctx context.Context) *Listeners {
	return &Listeners{s: s, ctx: ctx, by: s, open: map[string]*listener{}}
}

// MetricsListeners is Listeners for addresses where metrics are to be had, and nothing else.
func (s *Server) MetricsListeners(ctx context.Context) *Listeners {
	return &Listeners{s: s, ctx: ctx, by: http.HandlerFunc(s.onlyMetrics), open: map[string]*listener{}}
}

// Listen listens on some addresses and no others from now on. When one of them
// can't be had, nothing changes. Connections on an address that is given up end.
// The error is Invalid.
func (n *Listeners) Listen(addresses []string) error {
	at := map[string]string{}
	for _, a := range addresses {
		var err error
		if at[a], err = numeric(n.ctx, a); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var old []*listener
	for a, l := range n.open {
		if !slices.Contains(addresses, a) {
			old = append(old, l)
		}
	}
	added := map[string]*listener{}
	for _, a := range addresses {
		if n.open[a] != nil || added[a] != nil {
			continue
		}
		l, err := listenBeside(n.ctx, at[a], old)
		if err != nil {
			for _, l := range added {
				err = errors.Join(err, l.Close())
			}
			return kiln.Errorf(kiln.Invalid, "listen on %s: %w", a, err)
		}
		added[a] = &listener{TCPListener: l}
	}
	maps.DeleteFunc(n.open, func(_ string, l *listener) bool {
		if !slices.Contains(old, l) {
			return false
		}
		l.stop()
		_ = l.Close() // at once: the next to listen here finds it free
		return true
	})
	for a, l := range added {
		n.open[a] = l
		n.serve(a, l)
	}
	return nil
}

// lookupTime is how long a name of this host may be looked up: whoever sets it waits.
const lookupTime = 5 * time.Second

// numeric is an address, with a number where it has the name of a host. The error is
// Invalid.
func numeric(ctx context.Context, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return address, nil // which whoever listens on it says what is wrong with
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return address, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(list) == 0 {
		return "", kiln.Errorf(kiln.Invalid, "%s is not an address, and can't be looked up as the name of one (%v); write "+
			"an address of this host, as in 192.0.2.1:8443, or :8443 for all", host, err)
	}
	ip := list[0].Unmap()
	for _, other := range list {
		if other = other.Unmap(); other.Is4() {
			ip = other
			break
		}
	}
	return net.JoinHostPort(ip.String(), port), nil
}

// serve answers on an address until it is given up.
func (n *Listeners) serve(address string, l *listener) {
	ctx, stop := context.WithCancel(n.ctx)
	l.stop = stop
	n.wg.Go(func() {
		bounded := n.conns.listener(l)
		if err := n.s.serveBy(ctx, tls.NewListener(patient{bounded}, n.s.tls()), n.by); err != nil && ctx.Err() == nil {
			n.s.log.Error("listen on the network", "address", address, "err", err)
		}
	})
	n.s.log.Info("listening", "address", address)
}

// listenBeside listens on an address that listeners which are to be closed may have a
// part of, as 127.0.0.1:8443 is one of :8443. So nobody who connects meanwhile is refused.
func listenBeside(ctx context.Context, address string, old []*listener) (*net.TCPListener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	old = slices.DeleteFunc(slices.Clone(old), func(o *listener) bool { return !overlap(o.Addr(), address) })
	if !errors.Is(err, unix.EADDRINUSE) || len(old) == 0 {
		return tcp(l), err
	}
	// The kernel lets sockets share a port if all of them say so when one is bound. They
	// do for that moment only: a socket of somebody else is in the way as ever.
	for _, o := range old {
		if err := sharePort(o, true); err != nil {
			return nil, err
		}
		defer func() { _ = sharePort(o, false) }()
	}
	config.Control = func(_, _ string, c syscall.RawConn) error { return setSharePort(c, true) }
	if l, err = config.Listen(ctx, "tcp", address); err != nil {
		return nil, err
	}
	if err := sharePort(tcp(l), false); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return tcp(l), nil
}

// overlap reports whether who listens on an address is in the way of who wants another.
func overlap(has net.Addr, wanted string) bool {
	h, _ := has.(*net.TCPAddr)
	w, err := net.ResolveTCPAddr("tcp", wanted)
	if err != nil || h == nil || h.Port != w.Port {
		return false
	}
	return w.IP == nil || h.IP.IsUnspecified() || w.IP.IsUnspecified() || h.IP.Equal(w.IP)
}

// tcp is a listener of the network "tcp" as what it is.
func tcp(l net.Listener) *net.TCPListener {
	t, _ := l.(*net.TCPListener)
	return t
}

// sharePort says whether a listener shares its port with others of this user.
func sharePort(l syscall.Conn, on bool) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return setSharePort(raw, on)
}

func setSharePort(raw syscall.RawConn, on bool) error {
	value := 0
	if on {
		value = 1
	}
	var err error
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value) })
	return errors.Join(cerr, err)
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
