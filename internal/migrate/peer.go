package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
)

// maxHeader bounds a control message, in bytes.
const maxHeader = 16 << 20

// headerTime is how long the peer may take to say what it is about.
const headerTime = 2 * time.Minute

// Silence is how long a server may usually say nothing: large trees are put away meanwhile.
const Silence = 30 * time.Minute

// A Peer is the server at the other end of a migration.
type Peer struct {
	Control, Files *websocket.Conn
	// Silence is how long it may say nothing while something is expected from it.
	Silence time.Duration

	stop context.CancelCauseFunc
	over chan struct{} // what listens has ended
	last Control       // what it heard
	err  error
}

// ReadHeader reads the header of the peer. Errors: Invalid, TooLarge, Network, Timeout, and
// what the peer says in the place of one.
func (p *Peer) ReadHeader(ctx context.Context) (Header, error) {
	most := min(headerTime, p.Silence)
	ctx, cancel := context.WithTimeoutCause(ctx, most, errSilent(most))
	defer cancel()
	b, err := p.message(ctx)
	if err != nil {
		return Header{}, p.lost(ctx, err)
	}
	h, err := ParseHeader(b)
	if err != nil {
		return h, fmt.Errorf("the header of the migration: %w", err)
	}
	// A control message says by its second field why there is no header.
	if c, err := ParseControl(b); err == nil && h.FS == RSYNC && c.Message != "" && len(h.Names) == 0 &&
		h.Features == nil {
		return h, refused(c)
	}
	return h, nil
}

// WriteHeader sends a header.
func (p *Peer) WriteHeader(ctx context.Context, h Header) error { return p.write(ctx, h.Marshal()) }

func (p *Peer) write(ctx context.Context, b []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Silence, errSilent(p.Silence))
	defer cancel()
	if err := p.Control.Write(ctx, websocket.MessageBinary, b); err != nil {
		return p.lost(ctx, err)
	}
	return nil
}

func (p *Peer) message(ctx context.Context) ([]byte, error) {
	kind, r, err := p.Control.Reader(ctx)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxHeader+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxHeader:
		return nil, kiln.Errorf(kiln.TooLarge, "a control message has more than %s", kiln.FormatSize(maxHeader))
	case kind != websocket.MessageBinary:
		return nil, kiln.Errorf(kiln.Invalid, "a control message came as text")
	}
	return b, nil
}

// Listen hears what the peer says from now on. The context that it gives ends when the peer
// has failed, or is gone without a word: its cause says why. What was begun before Close is
// over then.
func (p *Peer) Listen(ctx context.Context) context.Context {
	ctx, p.stop = context.WithCancelCause(ctx)
	p.over = make(chan struct{})
	listening := ctx
	go func() {
		defer close(p.over)
		b, err := p.message(listening)
		if err == nil {
			p.last, err = ParseControl(b)
		}
		switch {
		case err != nil:
			p.err = p.lost(listening, err)
			p.stop(p.err)
		case !p.last.Success:
			p.err = refused(p.last)
			p.stop(p.err)
		}
	}()
	return ctx
}

func refused(c Control) error {
	return kiln.Errorf(kiln.Network, "the other server says: %.2000s", c.Message)
}

// Wait waits until the peer has said that it succeeded, after Listen.
func (p *Peer) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Silence, errSilent(p.Silence))
	defer cancel()
	select {
	case <-p.over:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Finish tells the peer how it went.
func (p *Peer) Finish(ctx context.Context, failed error) error {
	c := Control{Success: failed == nil}
	if failed != nil {
		c.Message = failed.Error()
	}
	return p.write(ctx, c.Marshal())
}

// Fail tells the peer why it failed, unless it was the peer that did, and gives the reason.
func (p *Peer) Fail(ctx context.Context, err error) error {
	if p.over != nil && !ours(err) {
		select { // what the peer says explains a stream that broke off
		case <-p.over:
			if p.err != nil {
				return p.err
			}
		case <-time.After(lastWordTime):
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTime)
	defer cancel()
	_ = p.Finish(ctx, err)
	return err
}

// ours reports whether an error is of this end, and no stream that broke off: the peer may have
// given up for that.
func ours(err error) bool {
	switch kiln.KindOf(err) {
	case kiln.NoSpace, kiln.TooLarge, kiln.Invalid:
		return true
	}
	return false
}

// lastWordTime is how long the reason may take of a stream that broke off.
const lastWordTime = time.Second

// goodbyeTime is how long the peer has to take what was sent to it last.
const goodbyeTime = 5 * time.Second

// Close lets go of the peer, once it has closed, too, or had its time.
func (p *Peer) Close() {
	if p.stop != nil {
		select { // reading is what answers a goodbye
		case <-p.over:
		case <-time.After(goodbyeTime):
		}
		p.stop(nil)
		<-p.over
	}
	for _, c := range []*websocket.Conn{p.Control, p.Files} {
		_ = c.Close(websocket.StatusNormalClosure, "")
		_ = c.CloseNow()
	}
}

func errSilent(d time.Duration) error {
	return kiln.Errorf(kiln.Timeout, "the other server has said nothing for %v", d)
}

// lost gives the error of a websocket a kind.
func (p *Peer) lost(ctx context.Context, err error) error {
	var k kiln.Kind
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.As(err, &k) {
		return err
	}
	return kiln.Errorf(kiln.Network, "the connection to the other server broke off: %w", err)
}

// A Stream carries one tree. Its end is a message of text on its way there, and one on its
// way back.
type Stream struct {
	p     *Peer
	ctx   context.Context
	stop  context.CancelCauseFunc
	alive *time.Timer

	rest  io.Reader // of a message
	ended bool
}

// Stream begins with the next tree. Close must be called.
func (p *Peer) Stream(ctx context.Context) *Stream {
	ctx, stop := context.WithCancelCause(ctx)
	return &Stream{p: p, ctx: ctx, stop: stop,
		alive: time.AfterFunc(p.Silence, func() { stop(errSilent(p.Silence)) })}
}

// Context ends when no byte was on its way for too long.
func (s *Stream) Context() context.Context { return s.ctx }

// Close lets go of the stream. Nobody may be reading or writing: that would break the
// connection.
func (s *Stream) Close() {
	s.alive.Stop()
	s.stop(nil)
}

// Read reads what the peer sends; io.EOF is the end of the stream.
func (s *Stream) Read(b []byte) (int, error) {
	for {
		if s.ended {
			return 0, io.EOF
		}
		if s.rest == nil {
			kind, r, err := s.p.Files.Reader(s.ctx)
			if err != nil {
				return 0, s.p.lost(s.ctx, err)
			}
			s.alive.Reset(s.p.Silence)
			if kind == websocket.MessageText {
				n, err := io.Copy(io.Discard, io.LimitReader(r, 1))
				if err != nil {
					return 0, s.p.lost(s.ctx, err)
				}
				if n > 0 {
					return 0, kiln.Errorf(kiln.Invalid, "the other server sends text among the files")
				}
				s.ended = true
				continue
			}
			s.rest = r
		}
		n, err := s.rest.Read(b)
		if n > 0 {
			s.alive.Reset(s.p.Silence)
		}
		if errors.Is(err, io.EOF) {
			s.rest, err = nil, nil
			if n == 0 {
				continue
			}
		}
		if err != nil {
			err = s.p.lost(s.ctx, err)
		}
		return n, err
	}
}

// Write sends bytes.
func (s *Stream) Write(b []byte) (int, error) {
	if err := s.p.Files.Write(s.ctx, websocket.MessageBinary, b); err != nil {
		return 0, s.p.lost(s.ctx, err)
	}
	s.alive.Reset(s.p.Silence)
	return len(b), nil
}

// CloseWrite ends what is sent.
func (s *Stream) CloseWrite() error {
	if err := s.p.Files.Write(s.ctx, websocket.MessageText, nil); err != nil {
		return s.p.lost(s.ctx, err)
	}
	return nil
}
