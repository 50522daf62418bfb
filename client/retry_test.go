package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

// busyServer answers 503 some times, then takes what is sent; it counts and keeps that.
type busyServer struct {
	busy  int64
	after string
	asked atomic.Int64
	got   atomic.Value
}

func (s *busyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.asked.Add(1) <= s.busy {
		if s.after != "" {
			w.Header().Set("Retry-After", s.after)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"type":"error","error":"busy just now","error_code":503}`)
		return
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	s.got.Store(string(b))
	fmt.Fprint(w, `{"type":"sync","metadata":{}}`)
}

// TestBusyServerIsAskedAgain: a server that says when to come back is asked again, a few
// times, with the same body.
func TestBusyServerIsAskedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		busy  int64
		after string
		body  any
		asked int64
		kind  kiln.Kind
	}{
		"once":           {1, "0", map[string]string{"a": "b"}, 2, ""},
		"without a body": {2, "0", nil, 3, ""},
		"always":         {1000, "0", nil, 5, kiln.Busy},
		"no time given":  {1, "", nil, 1, kiln.Busy},
		"a date":         {1, "Fri, 27 Nov 2026 23:00:00 GMT", nil, 1, kiln.Busy},
		"a stream":       {1, "0", io.MultiReader(strings.NewReader("x")), 1, kiln.Busy},
	} {
		t.Run(name, func(t *testing.T) {
			h := &busyServer{busy: c.busy, after: c.after}
			s := httptest.NewServer(h)
			defer s.Close()
			_, _, err := client.HTTPS(s.URL, s.Client()).Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/1.0/x",
				Body: c.body}, nil)
			if (err == nil) != (c.kind == "") || err != nil && kiln.KindOf(err) != c.kind {
				t.Errorf("%v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "busy just now") {
				t.Errorf("the server's words are lost: %v", err)
			}
			if n := h.asked.Load(); n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
			if c.body != nil && err == nil && h.got.Load() != `{"a":"b"}` {
				t.Errorf("the body came as %q", h.got.Load())
			}
		})
	}
}

// TestBusyServerDoesntHold: who waits for a busy server can be interrupted.
func TestBusyServerDoesntHold(t *testing.T) {
	h := &busyServer{busy: 1000, after: "3600"}
	s := httptest.NewServer(h)
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for h.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := client.HTTPS(s.URL, s.Client()).Get(ctx, "/1.0", nil, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
