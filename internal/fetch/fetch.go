// Package fetch reads files from the web as if the network never failed: what
// breaks off is asked for again from where it broke, elsewhere if there is an
// elsewhere, and what comes slowly is asked for in several pieces at once.
//
// It doesn't know what the bytes are. Who reads compares them with a hash.
package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
)

// Speeds remembers how fast servers were. The zero value knows none.
type Speeds struct {
	mu sync.Mutex
	by map[string]float64 // bytes a second, by server
}

// A Client fetches files. It remembers how fast servers were.
type Client struct {
	HTTP   *http.Client
	Header http.Header // of every request
	Speeds *Speeds     // nil: what the client itself learns

	// What follows is for tests to be quick; zero values are the usual ones.
	Stall time.Duration // without a byte, after which a connection is given up
	Pause time.Duration // before the second attempt; it doubles from there
	Tries int           // attempts in a row without a byte, over all servers

	own Speeds
}

func (c *Client) speeds() *Speeds {
	if c.Speeds != nil {
		return c.Speeds
	}
	return &c.own
}

// The usual values.
const (
	stall    = 30 * time.Second
	pause    = stall / 120 // before the second attempt
	maxPause = 40          // times as long, later
	tries    = 10
	telling  = 256 << 10 // bytes; less than that measures the handshake
)

// A File is what to fetch.
type File struct {
	URLs []string // of the same bytes; the first is the one to name in errors
	Size int64    // bytes, -1 if unknown
	// Progress, if set, hears from which server bytes came and how many are
	// here by now.
	Progress func(server string, done int64)
}

// Open starts to fetch a file. Nothing is asked for before the first Read, so
// that Skip can come between.
func (c *Client) Open(ctx context.Context, f File) *Reader {
	ctx, cancel := context.WithCancel(ctx)
	return &Reader{c: c, ctx: ctx, cancel: cancel, file: f, end: f.Size}
}

// OpenRange starts to fetch n bytes of a file, from an offset on.
func (c *Client) OpenRange(ctx context.Context, f File, offset, n int64) *Reader {
	r := c.Open(ctx, f)
	r.offset, r.end, r.piece = offset, offset+n, true
	return r
}

// Length asks the servers once, and gives the size of the file in bytes, or -1 if
// they don't say. The answer is what Read goes on with.
func (r *Reader) Length() (int64, error) {
	if r.body == nil {
		var err error
		if r.body, err = r.connect(); err != nil {
			return 0, err
		}
		r.began, r.got = time.Now(), 0
	}
	if r.body.length >= 0 && r.end < 0 {
		r.end = r.body.length
	}
	return r.body.length, nil
}

// A Reader gives the bytes of one file in order. Errors, once every server was
// tried often enough: Network, NotFound, Denied; Cancelled with the context.
type Reader struct {
	c      *Client
	ctx    context.Context // it is Read that has no place for one
	cancel context.CancelFunc
	file   File
	offset int64
	end    int64 // -1 if unknown
	piece  bool  // end is not the file's
	first  int   // which server to begin with

	body  *body
	began time.Time // of the body
	got   int64     // from the body
	ahead *ahead    // several pieces at once
	tries int       // without a byte
	crawl crawl
	gone  []string // servers that don't have it
	err   error
}

// Skip makes Read begin at an offset, in bytes. It comes before the first Read.
func (r *Reader) Skip(n int64) error {
	r.offset = n
	return nil
}

// Read implements io.Reader. It returns an error only when trying again doesn't help.
func (r *Reader) Read(b []byte) (int, error) {
	for r.err == nil {
		if r.end >= 0 && r.offset >= r.end {
			return 0, io.EOF
		}
		if r.end >= 0 { // never more than was promised
			b = b[:min(int64(len(b)), r.end-r.offset)]
		}
		begin := time.Now()
		n, err := r.read(b)
		if n > 0 {
			r.offset += int64(n)
			r.tries = 0
			if r.err = r.crawls(n, time.Since(begin)); r.err != nil {
				return n, r.err
			}
			r.report()
			r.split()
			return n, nil
		}
		if errors.Is(err, io.EOF) && r.end < 0 {
			return 0, io.EOF
		}
		r.err = r.recover(err)
	}
	return 0, r.err
}

func (r *Reader) report() {
	if r.file.Progress == nil {
		return
	}
	server := ""
	if r.body != nil {
		server = host(r.body.url)
	}
	r.file.Progress(server, r.offset)
}

func (r *Reader) read(b []byte) (int, error) {
	if r.ahead != nil {
		return r.ahead.read(b)
	}
	if r.body == nil {
		var err error
		if r.body, err = r.connect(); err != nil {
			return 0, err
		}
		r.began, r.got = time.Now(), 0
	}
	n, err := r.body.Read(b)
	r.got += int64(n)
	return n, err
}

// connect asks the best server for the rest of the file.
func (r *Reader) connect() (*body, error) {
	urls := r.c.order(r.file.URLs, r.gone)
	if len(urls) == 0 {
		return nil, r.lost()
	}
	length := int64(-1)
	if r.piece {
		length = r.end - r.offset
	}
	// Without a byte from one, the next is asked.
	b, err := r.c.get(r.ctx, urls[(r.first+r.tries)%len(urls)], r.offset, length)
	if err == nil && b.length >= 0 && b.length < r.file.Size {
		b.Close()
		return nil, &refusal{b.url, kiln.Errorf(kiln.Network, "%s: the file there is shorter than it should be: "+
			"%d bytes, not %d", Shown(b.url), b.length, r.file.Size)}
	}
	return b, err
}

func (r *Reader) lost() error {
	return kiln.Errorf(kiln.NotFound, "%s isn't there", Shown(r.file.URLs[0]))
}

// recover decides whether to try again after an error, and waits before that.
func (r *Reader) recover(err error) error {
	moved := r.body != nil && r.got >= telling
	if r.body != nil {
		r.c.learn(r.body.url, r.got, time.Since(r.began), true)
		r.body.Close()
		r.body = nil
	}
	if r.ahead != nil {
		r.ahead.close()
		r.ahead = nil
	}
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if err == io.EOF { // before the end
		err = kiln.Errorf(kiln.Network, "the connection was cut after %d bytes", r.offset)
	}
	var refused *refusal
	if errors.As(err, &refused) {
		r.gone = append(r.gone, refused.url)
		if len(r.gone) >= len(r.file.URLs) {
			return refused
		}
		return nil // another may have it
	}
	most, wait := r.c.Tries, r.c.Pause
	if most == 0 {
		most = tries
	}
	if wait == 0 {
		wait = pause
	}
	if r.tries++; r.tries >= most {
		return kiln.Errorf(kiln.Network, "fetch %s: %w; given up after %d attempts, what is here is kept for the next",
			Shown(r.file.URLs[0]), err, r.tries)
	}
	if moved || r.tries < len(r.file.URLs) {
		return nil // it went well until now; or another server first
	}
	wait = min(wait<<min(r.tries-1, 10), maxPause*wait)
	wait = wait/2 + rand.N(wait/2+1)
	select {
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(wait):
		return nil
	}
}

// Close ends the connections.
func (r *Reader) Close() error {
	r.cancel()
	if r.ahead != nil {
		r.ahead.close()
	}
	if r.body != nil {
		r.c.learn(r.body.url, r.got, time.Since(r.began), false)
		return r.body.Close()
	}
	return nil
}

// A body is the answer of a server, which is given up when it stalls.
type body struct {
	io.ReadCloser
	url    string
	heard  func()
	stop   func()
	length int64 // of the whole file, -1 if unknown
	ranges bool  // the server gives pieces
}

// Read restarts the clock with each byte. An answer that ends early is
// io.ErrUnexpectedEOF by net/http.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.heard()
	}
	return n, err
}

// Close lets the server go.
func (b *body) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// Watch gives a context that ends, with an error of kind Network, when nothing is
// heard of the server at a URL for some time, and with stop.
func Watch(ctx context.Context, url string, wait time.Duration) (_ context.Context, heard, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(wait, func() {
		cancel(kiln.Errorf(kiln.Network, "%s sent nothing for %s", host(url), wait))
	})
	heard = func() { timer.Reset(wait) }
	stop = func() { timer.Stop(); cancel(nil) }
	return ctx, heard, stop
}

// get asks for a file from an offset on, for length bytes or, -1, to its end.
func (c *Client) get(ctx context.Context, url string, offset, length int64) (*body, error) {
	ctx, heard, stop := Watch(ctx, url, c.stallTime())
	resp, err := c.request(ctx, url, offset, length)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		stop()
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, url: url, heard: heard, stop: stop, length: -1}
	if err := b.begin(resp, offset); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (c *Client) request(ctx context.Context, url string, offset, length int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, &refusal{url, kiln.Errorf(kiln.Invalid, "%w", About(url, err))}
	}
	for k, v := range c.Header {
		req.Header[k] = v
	}
	req.Header.Set("Accept-Encoding", "identity") // lengths and hashes are of the file
	if length >= 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	} else if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		var circle *refusal
		if errors.As(err, &circle) {
			return nil, &refusal{url, circle.err}
		}
		if permanent(err) {
			return nil, &refusal{url, Explain(About(url, err))}
		}
		return nil, kiln.Errorf(kiln.Network, "%w", About(url, err))
	}
	if err := answer(resp, url); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// About is an error of a request for a URL, with that as it may be shown.
func About(url string, err error) error { return fmt.Errorf("%s: %w", Shown(url), Cause(err)) }

// Explain gives an error of a request its kind: Network, unless it has one.
func Explain(err error) error {
	if err == nil || kiln.KindOf(err) != kiln.Internal {
		return err
	}
	return kiln.Errorf(kiln.Network, "%w", err)
}

// permanent reports whether an error comes back when the request does: a
// certificate, or an address that can't be one.
func permanent(err error) bool {
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	switch kind := kiln.KindOf(err); {
	case kind == kiln.Denied, kind == kiln.Invalid:
		return true
	case errors.As(err, &cert):
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound
	}
	return false
}

// answer sorts statuses: nil to go on, a refusal, or an error that can pass.
func answer(resp *http.Response, url string) error {
	text := fmt.Sprintf("%s: %s", Shown(url), resp.Status)
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent:
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return &refusal{url, kiln.Errorf(kiln.NotFound, "%s", text)}
	case code == http.StatusRequestedRangeNotSatisfiable:
		return &refusal{url, kiln.Errorf(kiln.Network, "%s: the file there is shorter than it should be", Shown(url))}
	case code == http.StatusForbidden, code == http.StatusUnauthorized:
		return &refusal{url, kiln.Errorf(kiln.Denied, "%s", text)}
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return kiln.Errorf(kiln.Network, "%s", text)
	}
	return &refusal{url, kiln.Errorf(kiln.Network, "%s", text)}
}

// begin brings the body to the offset, wherever the server began.
func (b *body) begin(resp *http.Response, offset int64) error {
	if resp.StatusCode == http.StatusPartialContent {
		from, whole, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || from != offset {
			return &refusal{b.url, kiln.Errorf(kiln.Network, "%s: the server sent %q where bytes from %d on were asked for",
				Shown(b.url), resp.Header.Get("Content-Range"), offset)}
		}
		b.length, b.ranges = whole, true
		return nil
	}
	b.length = resp.ContentLength
	b.ranges = resp.Header.Get("Accept-Ranges") == "bytes"
	// It doesn't do ranges: what is here already comes once more.
	if _, err := io.CopyN(io.Discard, b, offset); err != nil {
		return kiln.Errorf(kiln.Network, "%s: %w", Shown(b.url), err)
	}
	return nil
}

// contentRange reads "bytes 5-9/10" (RFC 9110, 14.4); whole is -1 for "*".
func contentRange(s string) (from, whole int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(s, "/")
	first, _, ok3 := strings.Cut(span, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	whole, werr := strconv.ParseInt(total, 10, 64)
	if total == "*" {
		whole, werr = -1, nil
	}
	return from, whole, ok && ok2 && ok3 && err == nil && werr == nil
}

// order sorts URLs by how fast their servers were, those that nobody knows first
// in the order they were given, and leaves out those that don't have the file.
func (c *Client) order(urls, gone []string) []string {
	known := c.speeds()
	known.mu.Lock()
	defer known.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return slices.Contains(gone, u) })
	speed := func(u string) float64 {
		if s, ok := known.by[host(u)]; ok {
			return s
		}
		return math.Inf(1)
	}
	slices.SortStableFunc(left, func(a, b string) int { return cmp.Compare(speed(b), speed(a)) })
	return left
}

// learn remembers how fast a server was. One that broke off has to make up for it.
func (c *Client) learn(url string, n int64, d time.Duration, broke bool) {
	if n < telling && !broke {
		return
	}
	known := c.speeds()
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.by == nil {
		known.by = map[string]float64{}
	}
	now := float64(n) / max(d.Seconds(), 1e-3)
	if old, ok := known.by[host(url)]; ok {
		now = (old + now) / 2
	}
	if broke {
		now /= 2
	}
	known.by[host(url)] = now
}

func host(url string) string {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return url
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}
