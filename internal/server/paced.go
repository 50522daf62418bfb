package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
)

// stallsPerUpload is how many times longer than an untrusted client's request may take an
// upload may come without a byte: five minutes.
const stallsPerUpload = 10

// pacedBody is the body of a request that may take its time as long as something comes: a
// client that sends nothing more keeps a connection, and the files that are open for it.
type pacedBody struct {
	io.ReadCloser
	conn  *http.ResponseController
	stall time.Duration // without a byte

	mu    sync.Mutex
	until time.Time // when all of it has to be there; zero: whenever
	set   time.Time // when the deadline of conn was set
	ended bool      // by the deadline
}

// pace bounds how long the body of a request may stall, and how long all of it may take
// unless that is zero; handlers that expect more say so by unhurried.
func (s *Server) pace(w http.ResponseWriter, r *http.Request, within time.Duration) {
	conn := http.NewResponseController(w)
	var until time.Time
	if within > 0 {
		until = time.Now().Add(within)
		_ = conn.SetReadDeadline(until) // also of one that sends no body
	}
	if r.Body != nil && r.Body != http.NoBody {
		b := &pacedBody{ReadCloser: r.Body, conn: conn, stall: stallsPerUpload * s.stall(), until: until}
		b.hurry() // also where nobody reads it
		r.Body = b
	}
}

// readWithin has the rest of a request come by a time; zero: whenever.
func readWithin(w http.ResponseWriter, r *http.Request, until time.Time) {
	if b, ok := r.Body.(*pacedBody); ok {
		_ = b.SetReadDeadline(until)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(until)
}

// unhurried lets a request take its time, whoever sends it.
func unhurried(w http.ResponseWriter, r *http.Request) {
	streamed(r)
	readWithin(w, r, time.Time{})
}

// stalled reports whether nothing more of a request is to be waited for.
func stalled(r *http.Request) bool {
	b, ok := r.Body.(*pacedBody)
	if !ok {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// SetReadDeadline says when all of the body has to be there; zero: whenever.
func (b *pacedBody) SetReadDeadline(until time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended { // nothing waits for more, nor does net/http when it lets go of the connection
		return nil
	}
	b.until, b.set = until, time.Time{}
	return b.conn.SetReadDeadline(until)
}

// Read implements io.Reader. The error is Timeout when nothing came.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.hurry()
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF): // what is done with it may take longer
		b.mu.Lock()
		_ = b.conn.SetReadDeadline(b.until)
		b.mu.Unlock()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = b.late(err)
	}
	return n, err
}

// hurry puts the deadline off, now that something came.
func (b *pacedBody) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Sub(b.set) < b.stall/100 {
		return
	}
	at := now.Add(b.stall)
	if !b.until.IsZero() && b.until.Before(at) {
		at = b.until
	}
	if b.conn.SetReadDeadline(at) == nil {
		b.set = now
	}
}

func (b *pacedBody) late(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if !b.until.IsZero() && !time.Now().Before(b.until) {
		return kiln.Errorf(kiln.Timeout, "the request took too long to come: %w", err)
	}
	return kiln.Errorf(kiln.Timeout, "the client sent nothing more for %v, so the request is broken off; send it "+
		"again: %w", b.stall, err)
}
