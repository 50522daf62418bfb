package fetch

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

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

// Shown gives a URL as messages may have it: without what is secret or may be, which are
// a password and all of the query.
func Shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		bare, _, _ := strings.Cut(address, "?")
		return bare
	}
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.Redacted()
}

// Cause takes off what net/http wraps around an error: the method and the URL, which can
// have a secret in it.
func Cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
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
			Shown(req.URL.String()))
	}
	return nil
}
