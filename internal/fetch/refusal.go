package fetch

import (
	"errors"
	"net/http"

	"github.com/kiln-containers/kiln"
)

// A refusal is the answer of a server that won't give another.
type refusal struct {
	url string
	err error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Refused reports whether an error is that every server answered and won't give the
// file: asking for it again would not help.
func Refused(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

// CheckRedirect is for http.Client: a few redirects are followed, but none from
// https to plain http. The error is Network, or Denied.
func CheckRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) >= 10: // asking again would lead there again
		return &refusal{via[0].URL.String(), kiln.Errorf(kiln.Network, "%s redirects in a circle", via[0].URL.Host)}
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return kiln.Errorf(kiln.Denied, "%s redirects to %s, which is not protected by TLS", last.URL.Host,
			req.URL.Redacted())
	}
	return nil
}
