package server

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// A caller is who sent a request.
type caller struct {
	trusted     bool
	metrics     bool     // may read metrics, of its projects if it is restricted, and is untrusted for all else
	restricted  bool     // may not change what concerns the whole server, nor see other projects than its own
	projects    []string // of a restricted caller
	name        string
	fingerprint string // of its certificate; "": none
	protocol    string // "unix" or "tls"
	address     string
	cert        *x509.Certificate // what it showed; nil: nothing
}

type callerKey struct{}

// callerOf tells who sent a request.
func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// identify finds out who sent a request: whoever may open the socket is trusted,
// others are if the certificate they show is.
func (s *Server) identify(r *http.Request) *http.Request {
	c := caller{protocol: "unix", address: "@", trusted: true}
	if r.TLS != nil {
		c = caller{protocol: "tls", address: host(r.RemoteAddr)}
		if len(r.TLS.PeerCertificates) > 0 {
			c = s.whose(r.Context(), r.TLS.PeerCertificates[0])
			c.address = host(r.RemoteAddr)
			s.hold(r.Context(), c)
		}
	}
	ctx := op.WithOwner(event.WithRequestor(r.Context(), c.requestor(r)), c.owner())
	ctx = audit.WithWho(ctx, c.who(r))
	if c.restricted {
		ctx = instance.Restricted(ctx, c.projects...)
	}
	return r.WithContext(withCaller(ctx, c))
}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// whose tells who shows a certificate.
func (s *Server) whose(ctx context.Context, cert *x509.Certificate) caller {
	client, ok := s.d.Known(ctx, cert)
	scrapes := daemon.Scrapes(client)
	if client.Restricted && len(client.Projects) == 0 {
		ok = false
	}
	return caller{protocol: "tls", cert: cert, trusted: ok && !scrapes, metrics: ok && scrapes, name: client.Name,
		restricted: client.Restricted, projects: client.Projects, fingerprint: client.Fingerprint}
}

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}

// These bound the operations that are under way: each takes memory, and most a piece of the
// disk's and the processors' time.
const (
	mostOperations = 4096 // of all, as far as others than administrators are concerned; of one of these
	mostOfOne      = 256  // of a restricted client, with what it is asking for
	mostWaiting    = 64   // of those, and of its secrets: what only waits for somebody
)

// bounded reports whether a caller has less of the server than who manages it.
func (c caller) bounded() bool { return !c.trusted || c.restricted }

// busy refuses what may become an operation when its caller has as many as it may have. Who
// manages the server isn't held up by the others. The error is Busy.
func (s *Server) busy(c caller, own op.Load) error {
	switch {
	case c.bounded() && own.Working > mostOfOne:
		return kiln.Errorf(kiln.Busy, "this client has %d operations under way, as many as it may have; wait for some, or "+
			"cancel them: kiln operation list --all-projects", mostOfOne)
	case c.bounded() && s.d.Ops.Load().Working > mostOperations, own.Working > mostOperations:
		return kiln.Errorf(kiln.Busy, "the server has %d operations under way, as many as it may have; wait for some, or "+
			"cancel them: kiln operation list --all-projects", mostOperations)
	}
	return nil
}

// mayWait refuses one more operation that only waits for somebody to a restricted client that
// has as many as it may have. The error is Busy.
func (s *Server) mayWait(r *http.Request) error {
	if c := callerOf(r); c.bounded() && s.d.Ops.LoadOf(c.owner()).Waiting >= mostWaiting {
		return kiln.Errorf(kiln.Busy, "this client has %d operations under way that wait for somebody to connect or to "+
			"use a secret, as many as it may have; cancel some: kiln operation list --all-projects", mostWaiting)
	}
	return nil
}

// notAuthorized is what somebody is told who isn't trusted.
const notAuthorized = "not authorized"

// guard lets a handler be called by those who may, unless there is too much to do already.
func (s *Server) guard(to route, method string, h handler) handler {
	return s.recorded(to, method, s.allowed(to, method, h))
}

func (s *Server) allowed(to route, method string, h handler) handler {
	open, admin := to.open(method), to.adminOnly(method)
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		within := time.Duration(0)
		switch c := callerOf(r); {
		case !c.trusted && !open:
			return nil, kiln.Errorf(kiln.Denied, notAuthorized)
		case c.restricted && admin:
			return nil, kiln.Errorf(kiln.Denied, "not authorized: this client is restricted to projects, and this needs one "+
				"that isn't; ask whoever manages the server")
		case !c.trusted:
			// An untrusted client doesn't get to hold a connection with a slow request.
			within = s.stall()
		}
		if c := callerOf(r); method != http.MethodGet && !to.relieves(method, c) {
			own, release := s.d.Ops.Hold(c.owner())
			defer release()
			if err := s.busy(c, own); err != nil {
				return nil, err
			}
		}
		r, err := s.inProject(r, to, method)
		if err != nil {
			return nil, outside{err}
		}
		if !to.server {
			audit.InProject(r.Context(), project.Name(r.Context()))
		}
		r = meant(r, to)
		s.pace(w, r, within)
		return h(w, r)
	}
}

// meant has a request about an instance with ?uuid= mean that one only: another one that has
// the name by now is a Conflict. It is for clients whose work takes several requests.
func meant(r *http.Request, to route) *http.Request {
	uuid := r.URL.Query().Get("uuid")
	if uuid == "" || !strings.HasPrefix(to.path, "/1.0/instances/{name}") {
		return r
	}
	return r.WithContext(instance.MeaningUUID(r.Context(), r.PathValue("name"), uuid))
}
