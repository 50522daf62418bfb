package server

import (
	"context"
	"crypto/rand"
	"net/http"
	"regexp"
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
