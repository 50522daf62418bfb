package remote

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestMissesShareARequest: several looks at once for what isn't there have the server
// asked once.
func TestMissesShareARequest(t *testing.T) {
	var index atomic.Int32
	src := openStreams(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/streams/v1/index.json" {
			io.WriteString(w, `{"format":"products:1.0","products":{}}`)
			return
		}
		index.Add(1)
		io.WriteString(w, indexJSON)
	}))
	for _, name := range []string{"one", "two", "three"} {
		if _, err := src.Find(t.Context(), name); !errors.Is(err, kiln.NotFound) {
			t.Error(err)
		}
	}
	if n := index.Load(); n != 1 {
		t.Errorf("the index was asked for %d times", n)
	}
}

// TestAskedInTheFuture: a document that was fetched at a time that is yet to come isn't
// fresh for ever.
func TestAskedInTheFuture(t *testing.T) {
	for age, want := range map[time.Duration]bool{-time.Hour: false, time.Minute: true, 2 * time.Hour: false} {
		s := documentState{Fetched: time.Now().Add(-age)}
		if got := s.asked(get{}, time.Hour); got != want {
			t.Errorf("fetched %v ago: %v", age, got)
		}
	}
}

// TestMaxAgeIsForgotten: what an answer says of its age holds for that answer only.
func TestMaxAgeIsForgotten(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Cache-Control", "max-age=0")
		}
		io.WriteString(w, "x")
	}))
	defer s.Close()
	x := &Indexes{Dir: t.TempDir(), TTL: time.Hour}
	for n, want := range []int32{1, 2, 2} {
		g := get{http: s.Client(), urls: []string{s.URL}, limit: 10, stall: time.Minute,
			parse: func(r io.Reader) (any, error) { return io.ReadAll(r) }}
		if _, err := x.get(t.Context(), g); err != nil || asked.Load() != want {
			t.Errorf("get %d: %v; asked %d times, want %d", n+1, err, asked.Load(), want)
		}
	}
}
