package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/trust"
)

// connectTime is how long a client has to connect all websockets of a command.
const connectTime = 10 * time.Second

// sessions are the commands that wait for websockets, by operation.
type sessions struct {
	mu  sync.Mutex
	all map[string]*session
}

func (s *sessions) add(id string, x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*session{}
	}
	s.all[id] = x
}

func (s *sessions) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

func (s *sessions) get(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

func (s *sessions) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.all))
}

// session is one command with its websockets.
type session struct {
	owner caller            // who has asked for the command
	fds   map[string]string // secrets, by "0", "1", "2", "control"
	ended chan struct{}     // closed when the websockets may go
	ctx   context.Context   // of the websockets; it outlives the command
	close context.CancelFunc
	wg    sync.WaitGroup       // what reads the websockets
	conns map[string]chan conn // where each websocket arrives, once
}

type conn struct {
	*websocket.Conn
	ctx context.Context
}

func newSession(fds ...string) (*session, error) {
	x := &session{fds: map[string]string{}, ended: make(chan struct{}), conns: map[string]chan conn{}}
	x.ctx, x.close = context.WithCancel(context.Background())
	for _, fd := range fds {
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return nil, err
		}
		x.fds[fd] = hex.EncodeToString(secret)
		x.conns[fd] = make(chan conn, 1)
	}
	return x, nil
}

// lingerTime is how long a client has to take what was sent, when a command is
// over: closing at once would cut off what it hasn't read.
const lingerTime = 3 * time.Second

// linger lets the websockets go when the client has closed them, or had its time.
func (x *session) linger() {
	waitOr(&x.wg, lingerTime, x.close)
	x.close()
	close(x.ended)
}

// connect hands a websocket to the command that waits for it, and keeps it open
// until that ends.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) (any, error) {
	secret, x := r.URL.Query().Get("secret"), s.sessions.get(r.PathValue("id"))
	if x == nil || secret == "" {
		return nil, s.notConnected(r, secret)
	}
	for fd, want := range x.fds {
		if !trust.Same(secret, want) {
			continue
		}
		c, err := accept(w, r)
		if err != nil {
			return handled{}, nil // the library has answered
		}
		defer c.CloseNow()
		streamed(r)
		select {
		case x.conns[fd] <- conn{c, r.Context()}:
		default:
			c.Close(websocket.StatusPolicyViolation, "connected already")
			return handled{}, nil
		}
		<-x.ended
		return handled{}, nil
	}
	return nil, kiln.Errorf(kiln.Denied, "not authorized")
}

// notConnected says why a request can't get a websocket. Who has no secret that fits
// doesn't learn which operations there are.
func (s *Server) notConnected(r *http.Request, secret string) error {
	if !callerOf(r).trusted {
		return kiln.Errorf(kiln.Denied, "not authorized")
	}
	if _, err := s.operationOf(r); err != nil {
		return err
	}
	if secret == "" {
		return kiln.Errorf(kiln.Invalid, "missing secret")
	}
	return kiln.Errorf(kiln.Invalid, "this operation has no websockets")
}

func (s *Server) postExec(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.InstanceExecPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if len(post.Command) == 0 || post.Command[0] == "" {
		return nil, kiln.Errorf(kiln.Invalid, "the command is missing")
	}
	audit.Note(r.Context(), "command", post.Command)
	ctx, err := s.d.MeaningInstance(r.Context(), name) // the client takes its time to connect
	if err != nil {
		return nil, err
	}
	if err := s.d.CheckExec(ctx, name); err != nil {
		return nil, err
	}
	spec := box.ExecSpec{
		Command: post.Command, Env: post.Environment, UID: post.User, GID: post.Group, Cwd: post.Cwd,
		TTY: post.Interactive, Width: post.Width, Height: post.Height,
	}
	o := op.Options{MayCancel: true, Resources: map[string][]string{"instances": {"/1.0/instances/" + name},
		"containers": {"/1.0/containers/" + name}}}
	if !post.WaitForWS {
		spec.TTY = false
		return s.d.Ops.Start(ctx, "Executing command", o, func(ctx context.Context, o *op.Operation) error {
			return s.execAlone(ctx, o, name, spec, post.RecordOutput)
		}), nil
	}
	if err := s.mayWait(r); err != nil {
		return nil, err
	}
	fds := []string{"control", "0", "1", "2"}
	if post.Interactive {
		fds = fds[:2]
	}
	x, err := newSession(fds...)
	if err != nil {
		return nil, err
	}
	x.owner = callerOf(r)
	o.Class = op.Websocket
	o.Metadata = map[string]any{"command": post.Command, "environment": orEmpty(post.Environment),
		"interactive": post.Interactive, "fds": x.fds}
	return s.startSession(ctx, "Executing command", o, x, func(ctx context.Context, o *op.Operation) error {
		return s.exec(ctx, o, name, spec, x)
	}), nil
}

// exec runs a command whose input and output are websockets.
func (s *Server) exec(ctx context.Context, o *op.Operation, name string, spec box.ExecSpec, x *session) error {
	conns, err := x.wait(ctx)
	if err != nil {
		return err
	}
	// A client that doesn't take what it is sent, as one that is stopped, doesn't
	// keep a cancelled command, or the daemon, from ending.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lingerTime, x.close) })()
	if spec.TTY {
		return s.execTerminal(ctx, o, name, spec, x, conns["0"])
	}
	return s.execPipes(ctx, o, name, spec, x, conns)
}

// wait returns when all websockets but "control" are there.
func (x *session) wait(ctx context.Context) (map[string]conn, error) {
	late := time.After(connectTime)
	conns := map[string]conn{}
	for fd, c := range x.conns {
		if fd == "control" {
			continue
		}
		select {
		case conns[fd] = <-c:
		case <-late:
			return nil, kiln.Errorf(kiln.Timeout, "the client didn't connect its websockets within %v", connectTime)
		case <-x.ctx.Done():
			return nil, kiln.Errorf(kiln.Denied, "not authorized any more")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	op.Of(ctx).Joined()
	return conns, nil
}

// control obeys the control websocket, which may come late. Losing it, other than
// by a proper close, ends the command.
func (x *session) control(ctx context.Context, p *box.Process) {
	var c conn
	select {
	case c = <-x.conns["control"]:
	case <-x.ctx.Done():
		if ctx.Err() == nil {
			p.Signal(9)
		}
		return
	case <-ctx.Done():
		return
	}
	ping(x.ctx, c.Conn)
	for {
		b, err := readMessage(x.ctx, c.Conn)
		if err != nil {
			// A client that says goodbye has nothing more to control; one
			// that is gone without a word wants its command no more.
			if ctx.Err() == nil && websocket.CloseStatus(err) == -1 {
				p.Signal(9)
			}
			return
		}
		var m api.InstanceExecControl
		if json.Unmarshal(b, &m) != nil {
			continue
		}
		switch m.Command {
		case "signal":
			p.Signal(m.Signal)
		case "window-resize":
			width, err1 := strconv.Atoi(m.Args["width"])
			height, err2 := strconv.Atoi(m.Args["height"])
			if err1 == nil && err2 == nil {
				p.Resize(width, height)
			}
		}
	}
}

func (s *Server) execTerminal(ctx context.Context, o *op.Operation, name string, spec box.ExecSpec, x *session,
	c conn) error {
	p, err := s.d.Exec(ctx, name, spec)
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { p.Signal(9) })()
	x.wg.Go(func() { x.control(ctx, p) })
	x.wg.Go(func() { receive(x.ctx, c, p.PTY(), func() {}) })
	ping(x.ctx, c.Conn)
	out := copyOutput(writer{x.ctx, c}, p.PTY())
	code, err := p.Wait()
	drained := out.finish()
	o.Set("return", code)
	finish(x.ctx, c)
	if drained != nil && !gone(drained) {
		return errors.Join(err, drained)
	}
	return err
}

// An output is what a command writes on its way to a client.
type output struct {
	from *os.File
	read atomic.Int64 // bytes
	done chan struct{}
	err  error
}

func copyOutput(w io.Writer, from *os.File) *output {
	out := &output{from: from, done: make(chan struct{})}
	go func() {
		defer close(out.done)
		out.err = box.Drain(w, out)
	}()
	return out
}

// Read implements io.Reader.
func (out *output) Read(b []byte) (int, error) {
	n, err := out.from.Read(b)
	out.read.Add(int64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

const (
	quietTime = 50 * time.Millisecond // without a byte, after the command has ended
	ttyBuffer = 64 << 10              // bytes that a terminal may hold back
)

// finish ends the copying when the command has ended: what it had written is sent,
// however slow the client is, and nothing of what processes that it left behind go
// on writing, which may hold the output open for ever.
func (out *output) finish() error {
	last := out.read.Load() + out.pending() + ttyBuffer
	for quiet := time.Duration(0); quiet < quietTime && out.read.Load() < last; {
		const step = 5 * time.Millisecond
		select {
		case <-out.done:
			return out.err
		case <-time.After(step):
		}
		if quiet += step; out.pending() > 0 {
			quiet = 0
		}
	}
	if err := out.from.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	<-out.done
	return out.err
}

// pending is how many bytes are there to be read.
func (out *output) pending() int64 {
	raw, err := out.from.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return int64(n)
}

func (s *Server) execPipes(ctx context.Context, o *op.Operation, name string, spec box.ExecSpec, x *session,
	conns map[string]conn) error {
	ours := map[string]*os.File{}
	defer func() {
		for _, f := range ours {
			f.Close()
		}
	}()
	theirs := map[string]**os.File{"0": &spec.Stdin, "1": &spec.Stdout, "2": &spec.Stderr}
	for fd, f := range theirs {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if ours[fd], *f = r, w; fd == "0" {
			ours[fd], *f = w, r
		}
	}
	p, err := s.d.Exec(ctx, name, spec)
	for _, f := range theirs {
		(*f).Close()
	}
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { p.Signal(9) })()
	var outputs []*output
	var ends sync.WaitGroup
	x.wg.Go(func() { x.control(ctx, p) })
	x.wg.Go(func() { receive(x.ctx, conns["0"], ours["0"], func() { ours["0"].Close() }) })
	for _, fd := range []string{"1", "2"} {
		c := conns[fd]
		x.wg.Go(func() { receive(x.ctx, c, io.Discard, func() {}) }) // pongs, and its end
		ping(x.ctx, c.Conn)
		out := copyOutput(writer{x.ctx, c}, ours[fd])
		outputs = append(outputs, out)
		ends.Go(func() {
			<-out.done
			finish(x.ctx, c)
		})
	}
	code, err := p.Wait()
	for _, out := range outputs {
		_ = out.finish() // who doesn't read loses output
	}
	ends.Wait()
	o.Set("return", code)
	return err
}

// waitOr waits for a group; after d it does something about it first.
func waitOr(wg *sync.WaitGroup, d time.Duration, then func()) {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(d):
		then()
		<-done
	}
}

// receive copies what a websocket brings until its end, an empty text message,
// which it tells; then it reads on until the connection is closed.
func receive(ctx context.Context, c conn, w io.Writer, end func()) {
	defer end()
	buf := make([]byte, 32<<10)
	for {
		kind, r, err := c.Reader(ctx)
		if err != nil {
			return
		}
		n := 0
		for err == nil {
			var k int
			k, err = r.Read(buf)
			n += k
			if k == 0 {
				continue
			}
			if _, werr := w.Write(buf[:k]); werr != nil {
				w = io.Discard // the command doesn't read any more
			}
		}
		if !errors.Is(err, io.EOF) {
			return
		}
		if kind == websocket.MessageText && n == 0 {
			end()
			w = io.Discard
		}
	}
}

// writer sends what is written as binary messages.
type writer struct {
	ctx context.Context
	c   conn
}

func (w writer) Write(b []byte) (int, error) {
	if err := w.c.Write(w.ctx, websocket.MessageBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// finish tells the end of a stream. The client closes the connection then.
func finish(ctx context.Context, c conn) { _ = c.Write(ctx, websocket.MessageText, nil) }

// gone reports whether an error is that the client went away.
func gone(err error) bool {
	return websocket.CloseStatus(err) != -1 || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) ||
		errors.Is(err, os.ErrClosed)
}
