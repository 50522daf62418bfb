package remote

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
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

// TestManyServers: who may name servers can't have the documents of all of them kept.
func TestManyServers(t *testing.T) {
	const size = 8 << 20
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, size))
	}))
	defer s.Close()
	x := &Indexes{Dir: t.TempDir(), TTL: time.Hour}
	ask := func(url string) {
		t.Helper()
		g := get{http: s.Client(), urls: []string{url}, limit: size, stall: time.Minute,
			parse: func(r io.Reader) (any, error) { return io.ReadAll(r) }}
		if got, err := x.get(t.Context(), g); err != nil || len(got.([]byte)) != size {
			t.Fatalf("%T, %v", got, err)
		}
	}
	const many = mostStored/size + 6
	for n := range many {
		ask(s.URL + "/" + strconv.Itoa(n))
	}
	ask(s.URL + "/0") // the first ones are forgotten, and asked for again
	var parsed, stored int64
	for _, d := range x.entries {
		if d.parsed != nil {
			parsed += size
		}
	}
	x.sweep(3 * size)
	files, err := filepath.Glob(filepath.Join(x.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if fi, err := os.Stat(path); err == nil {
			stored += fi.Size()
		}
	}
	if parsed == 0 || parsed > mostParsed || stored < 3*size || stored > 3*size+10_000 {
		t.Errorf("%d bytes are in memory, %d in the directory", parsed, stored)
	}
	for n := range 2 * mostDocuments {
		x.entry(s.URL + "/none/" + strconv.Itoa(n))
	}
	if x.trim(); len(x.entries) > mostDocuments {
		t.Errorf("%d documents are known", len(x.entries))
	}
}
