package client

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// A busy server is asked a few times more, when it says that it may be.
const (
	mostAsked    = 5
	mostWaitTime = 10 * time.Second // each time
)

// retrying asks again where a server says that it is at a limit of its own, and when to
// come back: 503 with Retry-After. A kiln server says so before it begins with what was
// asked; of others the status should mean the same (RFC 9110, 15.6.4).
type retrying struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t retrying) RoundTrip(r *http.Request) (*http.Response, error) {
	for asked := 1; ; asked++ {
		resp, err := t.transport().RoundTrip(r)
		if err != nil || asked >= mostAsked {
			return resp, err
		}
		wait, again := retryAfter(resp)
		if !again || r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
			return resp, nil
		}
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswerKept)
		resp.Body.Close()
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(wait):
		}
		if r.GetBody != nil {
			r = r.Clone(r.Context())
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// maxAnswerKept is how much of an answer is read for the sake of its connection, in bytes.
const maxAnswerKept = 64 << 10

// retryAfter tells how long a busy server wants to be left alone, if it is one. Who waits
// takes a little longer, so that not all come back at once.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0, false
	}
	wait := min(time.Duration(min(seconds, 3600))*time.Second, mostWaitTime)
	return wait + rand.N(wait/4+time.Millisecond), true
}

func (t retrying) transport() http.RoundTripper {
	if t.RoundTripper == nil {
		return http.DefaultTransport
	}
	return t.RoundTripper
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t retrying) CloseIdleConnections() {
	if c, ok := t.transport().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
