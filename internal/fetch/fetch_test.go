package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kiln-containers/kiln"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is n bytes that tell their place.
func content(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// A bad server cuts connections after some bytes, and counts what it sends.
type bad struct {
	content []byte
	cut     func() int // bytes of an answer, -1 for all
	sent    atomic.Int64
	asked   atomic.Int64
	plain   bool // without ranges
	delay   time.Duration
}

func (s *bad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if s.plain {
		r.Header.Del("Range")
	}
	limit := -1
	if s.cut != nil {
		limit = s.cut()
	}
	cw := &cutter{ResponseWriter: w, left: limit, s: s}
	http.ServeContent(cw, r, "", time.Time{}, bytes.NewReader(s.content))
	if cw.left == 0 {
		panic(http.ErrAbortHandler)
	}
}

type cutter struct {
	http.ResponseWriter
	left int
	s    *bad
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.left >= 0 {
		b = b[:min(len(b), c.left)]
		c.left -= len(b)
	}
	time.Sleep(c.s.delay)
	n, err := c.ResponseWriter.Write(b)
	c.s.sent.Add(int64(n))
	if c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func client(t *testing.T) *Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &Client{HTTP: &http.Client{Transport: tr}, Stall: time.Second, Pause: time.Millisecond}
}

func read(t *testing.T, c *Client, f File) ([]byte, error) {
	t.Helper()
	r := c.Open(t.Context(), f)
	defer r.Close()
	return io.ReadAll(r)
}

func TestCutTenTimes(t *testing.T) {
	s := &bad{content: content(8 << 20)}
	var cuts atomic.Int64
	s.cut = func() int {
		if cuts.Add(1) > 10 {
			return -1
		}
		return rand.IntN(700_000) + 1
	}
	got, err := read(t, client(t), File{URLs: []string{serve(t, s)}, Size: 8 << 20})
	if err != nil || !bytes.Equal(got, s.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if sent := s.sent.Load(); float64(sent) > 1.02*(8<<20) {
		t.Errorf("%d bytes sent for %d", sent, 8<<20)
	}
}

// TestGoesOnAtOnce cuts a line that was good until then: nothing is waited for.
func TestGoesOnAtOnce(t *testing.T) {
	s := &bad{content: content(4 << 20), cut: func() int { return 1 << 20 }}
	c := client(t)
	c.Pause = time.Hour
	if got, err := read(t, c, File{URLs: []string{serve(t, s)}, Size: 4 << 20}); err != nil ||
		!bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestNothingIsCompressedOnTheWay asks a server that compresses what it sends to whoever
// takes that: lengths, offsets and hashes are those of the file, so nobody may.
func TestNothingIsCompressedOnTheWay(t *testing.T) {
	s := &bad{content: content(1 << 20)}
	var compressed atomic.Int64
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			s.ServeHTTP(w, r)
			return
		}
		compressed.Add(1)
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(s.content)
		_ = z.Close()
	}))
	got, err := read(t, client(t), File{URLs: []string{url}, Size: 1 << 20})
	if err != nil || !bytes.Equal(got, s.content) || compressed.Load() > 0 {
		t.Errorf("%d bytes, %v; %d answers were compressed", len(got), err, compressed.Load())
	}
}

func TestNoRanges(t *testing.T) {
	s := &bad{content: content(1 << 20), plain: true}
	var cuts atomic.Int64
	s.cut = func() int { return []int{300_000, 600_000, -1}[min(cuts.Add(1), 3)-1] }
	got, err := read(t, client(t), File{URLs: []string{serve(t, s)}, Size: -1})
	if err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestSkip(t *testing.T) {
	s := &bad{content: content(100_000)}
	r := client(t).Open(t.Context(), File{URLs: []string{serve(t, s)}, Size: 100_000})
	defer r.Close()
	r.Skip(99_000)
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, s.content[99_000:]) || s.sent.Load() != 1000 {
		t.Errorf("%d bytes of %d sent, %v", len(got), s.sent.Load(), err)
	}
}

func TestMirrors(t *testing.T) {
	good := &bad{content: content(500_000)}
	broken := &bad{content: good.content, cut: func() int { return 1000 }}
	urls := []string{serve(t, http.NotFoundHandler()), "http://127.0.0.1:1/x", serve(t, broken), serve(t, good)}
	c := client(t)
	var server string
	got, err := read(t, c, File{URLs: urls, Size: 500_000, Progress: func(s string, _ int64) { server = s }})
	if err != nil || !bytes.Equal(got, good.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if server != host(urls[3]) {
		t.Errorf("the last bytes came from %s", server)
	}
	// The next time the fast one is the first to be asked.
	asked := broken.asked.Load()
	if _, err := read(t, c, File{URLs: urls[2:], Size: 500_000}); err != nil || broken.asked.Load() != asked {
		t.Errorf("the broken one was asked again, %v", err)
	}
}

func TestErrors(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	for what, c := range map[string]struct {
		h    http.Handler
		size int64
		kind kiln.Kind
		text string
	}{
		"not there":       {http.NotFoundHandler(), -1, kiln.NotFound, "404"},
		"forbidden":       {status(403), -1, kiln.Denied, "403"},
		"always fails":    {status(500), -1, kiln.Network, "after 3 attempts"},
		"always busy":     {status(429), -1, kiln.Network, "after 3 attempts"},
		"always late":     {status(408), -1, kiln.Network, "after 3 attempts"},
		"shorter":         {text("abc"), 10, kiln.Network, "shorter than it should be"},
		"another range":   {wrongRange(), 10, kiln.Network, "where bytes from 3 on"},
		"slow-loris":      {slow, 10, kiln.Network, "sent nothing for"},
		"redirect circle": {http.RedirectHandler("/", http.StatusFound), 10, kiln.Network, "redirects"},
	} {
		cl := client(t)
		cl.Tries, cl.Stall = 3, 50*time.Millisecond
		_, err := read(t, cl, File{URLs: []string{serve(t, c.h)}, Size: c.size})
		if kiln.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v (%s)", what, err, kiln.KindOf(err))
		}
	}
}

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(s))
	})
}

// wrongRange gives three bytes, and then others than are asked for.
func wrongRange() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", "10")
			w.Write([]byte("abc"))
			return
		}
		w.Header().Set("Content-Range", "bytes 0-9/10")
		w.WriteHeader(http.StatusPartialContent)
	})
}

func TestCancel(t *testing.T) {
	s := &bad{content: content(10 << 20), delay: 10 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	r := client(t).Open(ctx, File{URLs: []string{serve(t, s)}, Size: 10 << 20})
	defer r.Close()
	r.Read(make([]byte, 100))
	cancel()
	if _, err := io.ReadAll(r); kiln.KindOf(err) != kiln.Cancelled {
		t.Error(err)
	}
}

// TestPieces has a server that is slow for each connection.
func TestPieces(t *testing.T) {
	s := &bad{content: content(48 << 20), delay: 4 * time.Millisecond}
	var cuts atomic.Int64
	s.cut = func() int {
		if cuts.Add(1)%3 == 0 {
			return rand.IntN(3 << 20)
		}
		return -1
	}
	got, err := read(t, client(t), File{URLs: []string{serve(t, s)}, Size: 48 << 20})
	if err != nil || !bytes.Equal(got, s.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if s.asked.Load() < 8 {
		t.Errorf("%d requests: not in pieces", s.asked.Load())
	}
	if sent := s.sent.Load(); float64(sent) > 1.1*(48<<20) {
		t.Errorf("%d bytes sent for %d", sent, 48<<20)
	}
}

func TestRedirectToPlain(t *testing.T) {
	plain := serve(t, text("secret"))
	s := httptest.NewTLSServer(http.RedirectHandler(plain, http.StatusFound))
	defer s.Close()
	c := client(t)
	c.HTTP = s.Client()
	c.HTTP.CheckRedirect = CheckRedirect
	if _, err := read(t, c, File{URLs: []string{s.URL}, Size: -1}); !errors.Is(err, kiln.Denied) {
		t.Errorf("%v", err)
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 0-1/*")
	f.Fuzz(func(t *testing.T, s string) {
		if _, _, ok := contentRange(s); ok && !strings.HasPrefix(s, "bytes ") {
			t.Error(s)
		}
	})
}
