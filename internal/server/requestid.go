package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
)

// requestHeader carries a name of the request, by which its lines in the log of this
// server, and of those before it, are found.
const requestHeader = "X-Request-Id"

type requestKey struct{}

// requestName is what a client may call a request.
var requestName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// withID gives a request the name that it brings, or one of its own.
func withID(r *http.Request) *http.Request {
	id := r.Header.Get(requestHeader)
	if !requestName.MatchString(id) {
		id = rand.Text()[:12]
	}
	return r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
}

// requestID is the name of a request.
func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestKey{}).(string)
	return id
}

// traceHeader says which trace a request is part of: https://www.w3.org/TR/trace-context.
const traceHeader = "traceparent"

// traceParent has the version, the trace, the caller's span and flags. Later versions may have
// more after these.
var traceParent = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.{0,256})?$`)

// traceOf is the trace that a request is part of; "": none that can be understood.
func traceOf(r *http.Request) string {
	m := traceParent.FindStringSubmatch(r.Header.Get(traceHeader))
	if m == nil || m[1] == "ff" || m[1] == "00" && m[4] != "" || strings.Trim(m[2], "0") == "" ||
		strings.Trim(m[3], "0") == "" {
		return ""
	}
	return m[2]
}

// logOf is the log with the names of a request, and of its trace if it is part of one.
func (s *Server) logOf(r *http.Request) *slog.Logger {
	log := s.log.With("request", requestID(r))
	if trace := traceOf(r); trace != "" {
		log = log.With("trace", trace)
	}
	return log
}
