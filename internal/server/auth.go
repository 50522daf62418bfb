package server

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
)

// A caller is who sent a request.
type caller struct {
	trusted     bool
	restricted  bool // may not change what concerns the whole server
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
			c.cert = r.TLS.PeerCertificates[0]
			client, ok := s.d.Trusted(r.Context(), c.cert)
			c.trusted, c.name, c.restricted, c.fingerprint = ok, client.Name, client.Restricted, client.Fingerprint
			if client.Restricted && !slices.Contains(client.Projects, defaultProject) {
				c.trusted = false
			}
		}
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
}

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}

// anybody lists what may be called without being trusted. What an untrusted client gets
// there is for the handler to decide.
func anybody() map[string][]string {
	const get, post = http.MethodGet, http.MethodPost
	return map[string][]string{
		"/": {get}, "/1.0": {get}, "/1.0/images": {get, post}, "/1.0/images/{name}": {get},
		"/1.0/images/{name}/export":     {get},
		"/1.0/images/aliases/{name...}": {get}, "/1.0/kiln/images/{name}/files/{hash}": {get},
		"/1.0/kiln/images/{name}/files/{hash}/index": {get}, "/1.0/kiln/images/{name}/files/{hash}/patch/{base}": {get},
		"/1.0/kiln/instances/{name}/transfer":             {get, http.MethodDelete},
		"/1.0/kiln/instances/{name}/transfer/layers/{id}": {get},
		"/1.0/certificates":                               {post}, "/1.0/operations/{id}/wait": {get},
		"/1.0/operations/{id}/websocket": {get}, // the secret is enough, as for the peers
		"/streams/v1/{file}":             {get}, "/streams/files/{name...}": {get}, "/lxd/{name...}": {get},
		"/i/{name...}": {get},
	}
}

// theServer lists what restricted clients may not change, or see.
func theServer() map[string][]string {
	const get, put, patch, post, del = http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete
	return map[string][]string{
		"/1.0": {put, patch}, "/1.0/certificates": {get, post}, "/1.0/certificates/{fingerprint}": {get, put, patch, del},
		"/1.0/kiln/shutdown": {post}, "/1.0/kiln/mirrors": {post}, "/1.0/kiln/mirrors/{name}": {del, post},
		// A profile is part of other people's instances.
		"/1.0/profiles": {post}, "/1.0/profiles/{name}": {put, patch, post, del},
	}
}

// guard lets a handler be called by those who may.
func (s *Server) guard(pattern, method string, h handler) handler {
	open := slices.Contains(anybody()[pattern], method)
	restricted := slices.Contains(theServer()[pattern], method)
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		switch c := callerOf(r); {
		case !c.trusted && !open, c.restricted && restricted:
			return nil, kiln.Errorf(kiln.Denied, "not authorized")
		case !c.trusted:
			// An untrusted client doesn't get to hold a connection with a slow request.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.stall()))
		}
		return h(w, r)
	}
}
