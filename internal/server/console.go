package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// postConsole attaches to a console by two websockets: "0" for what is typed and
// shown, and "control", whose end detaches.
func (s *Server) postConsole(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.InstanceConsolePost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	switch post.Type {
	case "", "console":
	case "vga":
		return nil, kiln.Errorf(kiln.Unsupported, "instance %q is a container and has no graphical console; use "+
			"--type=console", name)
	default:
		return nil, kiln.Errorf(kiln.Invalid, "%q is not a type of console; use console", post.Type)
	}
	if err := s.mayWait(r); err != nil {
		return nil, err
	}
	a, err := s.d.AttachConsole(r.Context(), name, post.Force)
	if err != nil {
		return nil, err
	}
	x, err := newSession("control", "0")
	if err == nil && post.Width > 0 && post.Height > 0 {
		err = a.Resize(post.Width, post.Height)
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	x.owner = callerOf(r)
	o := op.Options{Class: op.Websocket, MayCancel: true, Metadata: map[string]any{"fds": x.fds},
		Resources: map[string][]string{"instances": {"/1.0/instances/" + name}, "containers": {"/1.0/containers/" + name}}}
	return s.startSession(r.Context(), "Showing console", o, x, func(ctx context.Context, _ *op.Operation) error {
		defer a.Close()
		return s.console(ctx, a, x)
	}), nil
}

// startSession starts an operation whose websockets are those of a session.
func (s *Server) startSession(ctx context.Context, title string, o op.Options, x *session,
	run func(context.Context, *op.Operation) error) *op.Operation {
	o.Waits = true
	ready := make(chan struct{})
	started := s.d.Ops.Start(ctx, title, o, func(ctx context.Context, o *op.Operation) error {
		<-ready
		defer s.sessions.remove(o.ID())
		defer func() { go x.linger() }()
		return run(ctx, o)
	})
	s.sessions.add(started.ID(), x)
	s.endUntrusted(ctx, x) // the trust may have ended before reconsider could find it
	close(ready)
	return started
}

// console connects the websockets of a session with a console, until the client
// detaches, the instance stops, or somebody else takes the console over.
func (s *Server) console(ctx context.Context, a *instance.Attachment, x *session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.Context(), cancel)()
	conns, err := x.wait(ctx)
	if a.Context().Err() != nil {
		return a.Err()
	}
	if err != nil {
		return err
	}
	// A client that doesn't take what it is sent doesn't keep the operation.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lingerTime, x.close) })()
	c := conns["0"]
	x.wg.Go(func() {
		defer cancel()
		controlConsole(ctx, a, x)
	})
	x.wg.Go(func() { receive(x.ctx, c, typist{ctx, a}, cancel) })
	ping(x.ctx, c.Conn)
	err = a.Follow(ctx, writer{x.ctx, c})
	finish(x.ctx, c)
	if err != nil && !gone(err) {
		return err
	}
	return a.Err()
}

// typist types what is written into a console.
type typist struct {
	ctx context.Context
	a   *instance.Attachment
}

func (t typist) Write(b []byte) (int, error) {
	if err := t.a.Type(t.ctx, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// controlConsole obeys the control websocket until its end.
func controlConsole(ctx context.Context, a *instance.Attachment, x *session) {
	var c conn
	select {
	case c = <-x.conns["control"]:
	case <-x.ctx.Done():
		return
	case <-ctx.Done():
		return
	}
	ping(x.ctx, c.Conn)
	for {
		b, err := readMessage(x.ctx, c.Conn)
		if err != nil {
			return
		}
		var m api.InstanceExecControl
		if json.Unmarshal(b, &m) != nil || m.Command != "window-resize" {
			continue
		}
		width, err1 := strconv.Atoi(m.Args["width"])
		height, err2 := strconv.Atoi(m.Args["height"])
		if err1 == nil && err2 == nil {
			_ = a.Resize(width, height) // a size that can't be changes nothing
		}
	}
}

func (s *Server) getConsole(w http.ResponseWriter, r *http.Request) (any, error) {
	f, err := s.d.OpenConsoleLog(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := io.Copy(w, f); err != nil {
		s.log.Debug("send a log", "err", err)
	}
	return handled{}, nil
}

func (s *Server) deleteConsole(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.ClearConsoleLog(r.Context(), r.PathValue("name"))
}
