package fetch

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"
)

// A file that is large and comes slowly is asked for in pieces, several at once:
// one connection over a long way is bounded by the distance, not by the line.
const (
	pieceSize   = 4 << 20 // bytes
	connections = 4
	largeRest   = 8 * pieceSize
	slow        = 100e6 // bytes a second
	judgeAfter  = time.Second
)

// split goes over to several pieces at once where that can help.
func (r *Reader) split() {
	if r.ahead != nil || r.piece || !r.body.ranges {
		return
	}
	after := time.Since(r.began)
	if after < judgeAfter || r.body.length-r.offset < largeRest || float64(r.got)/after.Seconds() > slow {
		return
	}
	r.c.learn(r.body.url, r.got, after, false)
	r.ahead = r.startAhead(r.body.length)
	r.body.Close()
	r.body = nil
}

// ahead fetches pieces before they are read. Memory is bounded by its number of
// connections.
type ahead struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pieces chan chan piece // in order
	now    *bytes.Reader
	err    error // after now
}

type piece struct {
	bytes []byte
	err   error
}

func (r *Reader) startAhead(end int64) *ahead {
	ctx, cancel := context.WithCancel(r.ctx)
	from := r.offset
	a := &ahead{cancel: cancel, pieces: make(chan chan piece, connections-1), now: bytes.NewReader(nil)}
	a.wg.Go(func() {
		defer close(a.pieces)
		for n, at := 0, from; at < end; n, at = n+1, at+pieceSize {
			done := make(chan piece, 1)
			select {
			case a.pieces <- done:
			case <-ctx.Done():
				return
			}
			a.wg.Go(func() { done <- r.fetchPiece(ctx, n, at, min(at+pieceSize, end)) })
		}
	})
	return a
}

// fetchPiece reads one piece as Read reads a file: what breaks off goes on where
// it broke.
func (r *Reader) fetchPiece(ctx context.Context, n int, from, to int64) piece {
	one := r.c.Open(ctx, File{URLs: r.file.URLs, Size: to})
	defer one.Close()
	one.offset, one.piece, one.first, one.gone = from, true, n, r.gone
	buf := make([]byte, to-from)
	got, err := io.ReadFull(one, buf)
	return piece{buf[:got], err}
}

// read gives what comes next.
func (a *ahead) read(b []byte) (int, error) {
	for a.now.Len() == 0 {
		if a.err != nil {
			return 0, a.err
		}
		done, ok := <-a.pieces
		if !ok {
			return 0, io.EOF
		}
		p := <-done
		a.now, a.err = bytes.NewReader(p.bytes), p.err
	}
	return a.now.Read(b)
}

// close ends the connections and waits for them.
func (a *ahead) close() {
	a.cancel()
	a.wg.Wait()
}
