package client

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestRetryAfter: nobody waits for as long as a server may say, nor for what is no time.
func TestRetryAfter(t *testing.T) {
	for text, most := range map[string]time.Duration{
		"3600": mostWaitTime * 5 / 4, "9999999999": mostWaitTime * 5 / 4, "2": 5 * time.Second / 2, "0": 0,
		"-1": -1, "x": -1, "": -1,
	} {
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {text}}}
		wait, again := retryAfter(resp)
		if again != (most >= 0) || again && (wait < most*4/5 || wait > most+time.Millisecond) {
			t.Errorf("%q: %v, %v", text, wait, again)
		}
	}
	if _, again := retryAfter(&http.Response{StatusCode: http.StatusOK, Header: http.Header{"Retry-After": {"1"}}}); again {
		t.Error("a server that isn't busy is asked again")
	}
}

// refusing is a busy server whose answers count how many of them are closed.
type refusing struct{ asked, closed atomic.Int64 }

func (s *refusing) RoundTrip(*http.Request) (*http.Response, error) {
	s.asked.Add(1)
	return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"0"}},
		Body: closing{strings.NewReader("busy"), &s.closed}}, nil
}

type closing struct {
	io.Reader
	closed *atomic.Int64
}

func (c closing) Close() error { c.closed.Add(1); return nil }

// TestBusyAnswersAreClosed: each but the one that the caller gets.
func TestBusyAnswersAreClosed(t *testing.T) {
	s := new(refusing)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := retrying{s}.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if s.asked.Load() != mostAsked || s.closed.Load() != mostAsked-1 {
		t.Errorf("%d answers, %d closed", s.asked.Load(), s.closed.Load())
	}
}
