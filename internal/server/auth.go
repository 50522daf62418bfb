package server

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/instance"
)

// A caller is who sent a request.
type caller struct {
	trusted     bool
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
	ctx := event.WithRequestor(r.Context(), c.requestor(r))
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
	client, ok := s.d.Trusted(ctx, cert)
	if client.Restricted && len(client.Projects) == 0 {
		ok = false
	}
	return caller{protocol: "tls", cert: cert, trusted: ok, name: client.Name, restricted: client.Restricted,
		projects: client.Projects, fingerprint: client.Fingerprint}
}

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}

// mostOperations bounds those that are under way: each takes memory, and most a piece
// of the disk's and the processors' time.
const mostOperations = 4096

// guard lets a handler be called by those who may, unless there is too much to do already.
func (s *Server) guard(to route, method string, h handler) handler {
	open, admin := to.open(method), to.adminOnly(method)
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		within := time.Duration(0)
		switch c := callerOf(r); {
		case !c.trusted && !open:
			return nil, kiln.Errorf(kiln.Denied, "not authorized")
		case c.restricted && admin:
			return nil, kiln.Errorf(kiln.Denied, "not authorized: this client is restricted to projects, and this needs one "+
				"that isn't; ask whoever manages the server")
		case method != http.MethodGet && !strings.HasPrefix(to.path, "/1.0/operations/") &&
			s.d.Ops.Working() >= mostOperations:
			return nil, kiln.Errorf(kiln.Busy, "the server has %d operations under way, as many as it may have; wait for "+
				"some, or cancel them: kiln operation list", mostOperations)
		case !c.trusted:
			// An untrusted client doesn't get to hold a connection with a slow request.
			within = s.stall()
		}
		r, err := s.inProject(r, to, method)
		if err != nil {
			return nil, err
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
