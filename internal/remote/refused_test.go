package remote

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestRefusalIsSaid: an old index does for a server that doesn't answer, not for one that
// doesn't want to give it any more, or hasn't got it; and what a mirror of the server
// says is never the server's word.
func TestRefusalIsSaid(t *testing.T) {
	var status [2]atomic.Int32
	var asked atomic.Int32
	var urls []string
	for n := range status {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(int(status[n].Load()))
			io.WriteString(w, "list")
		}))
		defer s.Close()
		urls = append(urls, s.URL)
	}
	for _, c := range []struct {
		first, second int
		kind          error // nil: the old index
		asked         int32
	}{
		{503, 503, nil, 4},
		{429, 408, nil, 4},
		{503, 403, nil, 3},
		{403, 200, nil, 2},
		{404, 200, nil, 2},
		{403, 403, kiln.Denied, 2},
		{401, 503, kiln.Denied, 3},
		{451, 404, kiln.Denied, 2},
		{404, 503, kiln.NotFound, 3},
		{410, 410, kiln.NotFound, 2},
		{400, 503, kiln.Unsupported, 3},
	} {
		x := &Indexes{Dir: t.TempDir(), TTL: 0}
		var warned []string
		g := get{http: http.DefaultClient, urls: urls, limit: 10, stall: time.Minute,
			warn:  func(text string) { warned = append(warned, text) },
			parse: func(r io.Reader) (any, error) { return io.ReadAll(r) }}
		status[0].Store(200)
		if _, err := x.get(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		status[0].Store(int32(c.first))
		status[1].Store(int32(c.second))
		asked.Store(0)
		_, err := x.get(t.Context(), g)
		if !errors.Is(err, c.kind) {
			t.Errorf("%d, %d: %v", c.first, c.second, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), urls[0]) {
			t.Errorf("%d, %d: %v, which is not the server's own word", c.first, c.second, err)
		}
		if old := c.kind == nil && c.second != 200; old != (len(warned) > 0) {
			t.Errorf("%d, %d: warned of %q", c.first, c.second, warned)
		}
		if n := asked.Load(); n != c.asked {
			t.Errorf("%d, %d: %d requests, want %d", c.first, c.second, n, c.asked)
		}
	}
}

// TestReasonOfADirectServer: why there is no image at a URL is in a body, as long and as
// odd as the server likes.
func TestReasonOfADirectServer(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"type":"error","error":"image \"x\" has two files"}`, `: image "x" has two files`},
		{"{\"type\":\"error\",\"error\":\"a\\u001b[2Jb\"}", ": a\uFFFD[2Jb"},
		{`{"type":"error","error":"` + strings.Repeat("é", 1000) + `"}`, ": " + strings.Repeat("é", 300)},
		{`{"type":"error","error":"` + strings.Repeat("x", 1<<20) + `"}`, ": 404 Not Found"},
		{`{"type":"sync","error":"x"}`, ": 404 Not Found"},
		{"<html>", ": 404 Not Found"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, c.body)
		}))
		defer s.Close()
		o := &Opener{AllowHTTP: func() bool { return true }}
		src, err := o.Open(kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolDirect}, Access{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = src.Find(t.Context(), s.URL+"/x")
		if want := "there is no image at " + s.URL + "/x" + c.want; !errors.Is(err, kiln.NotFound) || err.Error() != want {
			t.Errorf("%.60q: %v, want %s", c.body, err, want)
		}
	}
}
