package store

import (
	"context"
	"io"
	"sync"
)

// A queue passes pieces of a file from the one that writes it to the one that
// inspects it. Unlike io.Pipe it has room for a few, so that both work at once,
// and no byte is copied twice.
type queue struct {
	full chan []byte
	free chan []byte
	stop chan struct{}
	once sync.Once

	mu  sync.Mutex
	err error // why one side ended
	now []byte
	all []byte // the buffer of now
}

const (
	pieces    = 8
	pieceSize = 512 << 10 // bytes
)

type queueReader struct{ *queue }
type queueWriter struct{ *queue }

func newQueue() (*queueReader, *queueWriter) {
	q := &queue{full: make(chan []byte, pieces), free: make(chan []byte, pieces), stop: make(chan struct{})}
	for range pieces {
		q.free <- make([]byte, pieceSize)
	}
	return &queueReader{q}, &queueWriter{q}
}

func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
}

func (q *queue) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// buffer gives room for the next piece. After the reader ended it is fresh
// memory, and send tells; after the end of ctx it is nothing.
func (w *queueWriter) buffer(ctx context.Context) []byte {
	select {
	case b := <-w.free:
		return b[:pieceSize]
	case <-w.stop:
		return make([]byte, pieceSize)
	case <-ctx.Done():
		return nil
	}
}

// send passes a piece on. The error is why the reader ended, nil if it had enough.
func (w *queueWriter) send(piece []byte) error {
	select {
	case w.full <- piece:
		return nil
	case <-w.stop:
		return w.failure()
	}
}

// CloseWithError ends the file; err nil is its proper end.
func (w *queueWriter) CloseWithError(err error) {
	w.fail(err)
	close(w.full)
}

// Read gives what was sent.
func (r *queueReader) Read(b []byte) (int, error) {
	for len(r.now) == 0 {
		if r.all != nil {
			r.free <- r.all
			r.all = nil
		}
		piece, ok := <-r.full
		if !ok {
			if err := r.failure(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		r.now, r.all = piece, piece
	}
	n := copy(b, r.now)
	r.now = r.now[n:]
	return n, nil
}

// CloseWithError tells the writer that nothing more is read.
func (r *queueReader) CloseWithError(err error) {
	r.fail(err)
	r.once.Do(func() { close(r.stop) })
}
