package place

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// patience is how long a server may be silent before the user hears whom it is that
// everybody waits for.
const patience = time.Second

// A patient transport tells whom it waits for, once.
type patient struct {
	http.RoundTripper
	after time.Duration
	warn  func(text string)
	once  *sync.Once
}

// RoundTrip implements http.RoundTripper.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	// An upload takes as long as it takes, and so does what is waited for on purpose.
	if r.Method == http.MethodGet && !strings.HasSuffix(r.URL.Path, "/wait") && !strings.HasSuffix(r.URL.Path, "/events") {
		t := time.AfterFunc(p.after, func() {
			p.once.Do(func() { p.warn("waiting for an answer of " + r.URL.Scheme + "://" + r.URL.Host) })
		})
		defer t.Stop()
	}
	return p.RoundTripper.RoundTrip(r)
}

// patiently has a client of a remote tell whom it waits for.
func (r *Resolver) patiently(hc *http.Client) {
	if r.Warn != nil {
		hc.Transport = patient{hc.Transport, patience, r.Warn, new(sync.Once)}
	}
}
