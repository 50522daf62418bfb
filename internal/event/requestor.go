package event

import "context"

// A Requestor is whose request made something happen.
type Requestor struct {
	Username string // of the local user, or the fingerprint of the client's certificate; "": unknown
	Protocol string // "unix" or "tls"
	Address  string // of the client; "@" for the unix socket
}

type requestorKey struct{}

// WithRequestor says on whose behalf a context's work is done.
func WithRequestor(ctx context.Context, r *Requestor) context.Context {
	return context.WithValue(ctx, requestorKey{}, r)
}

// RequestorOf tells on whose behalf a context's work is done; nil: nobody asked for it.
func RequestorOf(ctx context.Context) *Requestor {
	r, _ := ctx.Value(requestorKey{}).(*Requestor)
	return r
}

// String names the requestor for a text: "user root", "client 0123456789ab".
func (r *Requestor) String() string {
	switch {
	case r == nil || r.Username == "":
		return "somebody"
	case r.Protocol == "tls":
		return "client " + r.Username[:min(len(r.Username), 12)] + " (" + r.Address + ")"
	}
	return "user " + r.Username
}
