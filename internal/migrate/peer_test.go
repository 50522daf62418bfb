package migrate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
)

// pair connects two peers. What is silent for longer than d has failed.
func pair(t *testing.T, d time.Duration) (a, b *Peer) {
	t.Helper()
	accepted := make(chan *websocket.Conn, 2)
	ended := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.SetReadLimit(-1)
		accepted <- c
		<-ended
		c.CloseNow()
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(ended) })
	a, b = &Peer{Silence: d}, &Peer{Silence: d}
	for _, to := range []struct{ near, far **websocket.Conn }{{&a.Control, &b.Control}, {&a.Files, &b.Files}} {
		c, _, err := websocket.Dial(t.Context(), s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.CloseNow() })
		c.SetReadLimit(-1)
		*to.near, *to.far = c, <-accepted
	}
	return a, b
}

// TestStreams sends trees one after another: each ends where it ends.
func TestStreams(t *testing.T) {
	a, b := pair(t, time.Minute)
	for _, text := range []string{"", "one", strings.Repeat("two", 100_000)} {
		there, here := a.Stream(t.Context()), b.Stream(t.Context())
		var sending sync.WaitGroup
		sending.Go(func() {
			_, _ = io.Copy(there, strings.NewReader(text))
			_ = there.CloseWrite()
		})
		got, err := io.ReadAll(here)
		sending.Wait()
		if string(got) != text || err != nil {
			t.Errorf("%d bytes, %v; want %d", len(got), err, len(text))
		}
		there.Close()
		here.Close()
	}
	if err := a.Files.Write(t.Context(), websocket.MessageText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	here := b.Stream(t.Context())
	defer here.Close()
	if _, err := io.ReadAll(here); !errors.Is(err, kiln.Invalid) {
		t.Error("text among the files:", err)
	}
}

// TestSilence gives up on a peer that says nothing, wherever something is expected of it.
func TestSilence(t *testing.T) {
	a, _ := pair(t, 20*time.Millisecond)
	if _, err := a.ReadHeader(t.Context()); !errors.Is(err, kiln.Timeout) {
		t.Error("header:", err)
	}
	a, _ = pair(t, 20*time.Millisecond)
	s := a.Stream(t.Context())
	defer s.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, kiln.Timeout) {
		t.Error("stream:", err)
	}
	a.Listen(t.Context())
	if err := a.Wait(t.Context()); !errors.Is(err, kiln.Timeout) {
		t.Error("control:", err)
	}
}

// TestFailure has the reason of one end be that of the other.
func TestFailure(t *testing.T) {
	a, b := pair(t, time.Minute)
	ctx := b.Listen(t.Context())
	own := errors.New("disk full")
	if err := a.Fail(t.Context(), own); !errors.Is(err, own) {
		t.Error(err)
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !strings.Contains(err.Error(), "the other server says: disk full") {
		t.Error(err)
	}
	if err := b.Fail(ctx, errors.New("the stream broke off")); !strings.Contains(err.Error(), "disk full") {
		t.Error(err)
	}
	a, b = pair(t, time.Minute)
	ctx = b.Listen(t.Context())
	a.Control.CloseNow()
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, kiln.Network) {
		t.Error(err)
	}
	for _, kind := range []kiln.Kind{kiln.NoSpace, kiln.TooLarge, kiln.Invalid} { // why it broke off
		if err := b.Fail(ctx, kiln.Errorf(kind, "the files")); !errors.Is(err, kind) {
			t.Error(err)
		}
	}
	a, b = pair(t, time.Minute)
	b.Listen(t.Context())
	if err := a.Finish(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := b.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStreamAlive: whatever goes one way or the other is a sign of life, also within a message.
func TestStreamAlive(t *testing.T) {
	a, b := pair(t, time.Minute)
	there, here := a.Stream(t.Context()), b.Stream(t.Context())
	defer there.Close()
	defer here.Close()
	there.alive.Stop()
	if _, err := there.Write([]byte("two")); err != nil || !there.alive.Stop() {
		t.Error("what was sent is no sign of life:", err)
	}
	for range 2 {
		here.alive.Stop()
		if _, err := io.ReadFull(here, make([]byte, 1)); err != nil || !here.alive.Stop() {
			t.Error("what was read is no sign of life:", err)
		}
	}
}

// TestLargeMessage refuses a control message that is larger than any header.
func TestLargeMessage(t *testing.T) {
	a, b := pair(t, time.Minute)
	var sending sync.WaitGroup
	sending.Go(func() {
		_ = a.Control.Write(t.Context(), websocket.MessageBinary, make([]byte, maxHeader+1))
	})
	if _, err := b.ReadHeader(t.Context()); !errors.Is(err, kiln.TooLarge) {
		t.Error(err)
	}
	sending.Wait()
}
