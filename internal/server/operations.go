package server

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/trust"
)

// statusText is what the wire calls an operation's status.
func statusText(s op.Status) string {
	switch s {
	case op.Pending:
		return "Pending"
	case op.Running:
		return "Running"
	case op.Success:
		return "Success"
	case op.Failure:
		return "Failure"
	case op.Cancelled:
		return "Cancelled"
	}
	return "Error"
}

func operation(s op.Snapshot) api.Operation {
	o := api.Operation{
		ID: s.ID, Class: string(s.Class), Description: s.Description, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
		Status: statusText(s.Status), StatusCode: int(s.Status), Resources: s.Resources, Metadata: s.Metadata,
		MayCancel: s.MayCancel, Location: "none",
	}
	if s.Err != nil {
		o.Err = s.Err.Error()
		if o.Metadata == nil {
			o.Metadata = map[string]any{}
		}
		o.Metadata[api.KindKey] = string(kiln.KindOf(s.Err))
	}
	return o
}

func (s *Server) getOperations(w http.ResponseWriter, r *http.Request) (any, error) {
	urls, objects := map[string][]string{}, map[string][]api.Operation{}
	for _, snap := range s.d.Ops.List() {
		if !callerOf(r).maySee(snap) || !about(r.Context(), cmp.Or(snap.Project, project.Default)) {
			continue
		}
		key := strings.ToLower(statusText(snap.Status))
		urls[key] = append(urls[key], "/1.0/operations/"+snap.ID)
		objects[key] = append(objects[key], operation(snap))
	}
	if recursion(r) == 0 {
		return urls, nil
	}
	return objects, nil
}

func (s *Server) getOperation(w http.ResponseWriter, r *http.Request) (any, error) {
	o, err := s.operationOf(r)
	if err != nil {
		return nil, err
	}
	return operation(o.Snapshot()), nil
}

func (s *Server) deleteOperation(w http.ResponseWriter, r *http.Request) (any, error) {
	o, err := s.operationOf(r)
	if err != nil {
		return nil, err
	}
	return nil, o.Cancel()
}

// opens reports whether a word is the secret of an operation.
func opens(o op.Snapshot, word string) bool {
	secret, ok := o.Metadata["secret"].(string)
	return ok && trust.Same(secret, word)
}

func (s *Server) waitOperation(w http.ResponseWriter, r *http.Request) (any, error) {
	o, err := s.operationOf(r)
	if err != nil {
		if !callerOf(r).trusted {
			err = kiln.Errorf(kiln.Denied, "not authorized")
		}
		return nil, err
	}
	if !callerOf(r).trusted && !opens(o.Snapshot(), r.URL.Query().Get("secret")) {
		return nil, kiln.Errorf(kiln.Denied, "not authorized")
	}
	ctx := r.Context()
	if t := r.URL.Query().Get("timeout"); t != "" {
		seconds, err := strconv.Atoi(t)
		if err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "timeout %q is not a number of seconds", t)
		}
		if seconds >= 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
			defer cancel()
		}
	}
	return operation(o.Wait(ctx)), nil
}

// pingEvery keeps websockets alive; Incus drops an event stream after 30 s
// without.
const pingEvery = 10 * time.Second

func (s *Server) events(w http.ResponseWriter, r *http.Request) (any, error) {
	var types []string
	if t := r.URL.Query().Get("type"); t != "" {
		types = strings.Split(t, ",")
	}
	for _, t := range types {
		switch t {
		case "operation", "lifecycle":
		case "logging", daemon.SecurityEvents:
			if callerOf(r).restricted {
				return nil, kiln.Errorf(kiln.Denied, "not authorized: events of the type %s are for clients that aren't "+
					"restricted to projects", t)
			}
		default:
			return nil, kiln.Errorf(kiln.Invalid, "%q is not a type of event; there are operation, lifecycle, logging and "+
				"security", t)
		}
	}
	if types == nil { // security events are for who asks for them: older clients don't know them
		types = []string{"operation", "lifecycle", "logging"}
	}
	l := s.d.Events.Listen(types...)
	defer l.Close()
	c, err := accept(w, r)
	if err != nil {
		return handled{}, nil // the library has answered
	}
	defer c.CloseNow()
	ctx := c.CloseRead(r.Context())
	ping(ctx, c)
	for {
		select {
		case <-ctx.Done():
			return handled{}, nil
		case e, ok := <-l.Events():
			if ok && !hears(r, e) {
				continue
			}
			if !ok { // too slow
				c.Close(websocket.StatusPolicyViolation, "events were missed")
				return handled{}, nil
			}
			if err := send(ctx, c, callerOf(r), e); err != nil {
				return handled{}, nil
			}
		}
	}
}

func accept(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	// A browser tells which page opens a websocket; no browser opens the unix socket.
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: r.TLS == nil,
		CompressionMode: websocket.CompressionDisabled})
	if err == nil {
		c.SetReadLimit(-1) // messages are read in pieces, or by readMessage
	}
	return c, err
}

// maxMessage is how large a message of control may be, in bytes.
const maxMessage = 64 << 10

// readMessage reads a whole message. One that is too large ends the connection.
func readMessage(ctx context.Context, c *websocket.Conn) ([]byte, error) {
	_, r, err := c.Reader(ctx)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err == nil && len(b) > maxMessage {
		err = kiln.Errorf(kiln.TooLarge, "a message of more than %d bytes", maxMessage)
		_ = c.Close(websocket.StatusMessageTooBig, err.Error())
	}
	return b, err
}

// ping pings at once and from then on, until ctx ends. Somebody must read the
// connection meanwhile.
func ping(ctx context.Context, c *websocket.Conn) {
	go func() {
		for {
			if err := c.Ping(ctx); err != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pingEvery):
			}
		}
	}()
}

// maySeeDetails reports whether a caller may see what is said of an event besides what
// happened to what, such as a command with its arguments.
func (c caller) maySeeDetails(l daemon.Lifecycle) bool {
	return !c.restricted || l.Requestor != nil && l.Requestor.Protocol == c.protocol &&
		l.Requestor.Username == c.fingerprint
}

// projectOf tells in which project something happened; "": in none.
func projectOf(e event.Event) string {
	switch m := e.Metadata.(type) {
	case op.Snapshot:
		return m.Project
	case daemon.Lifecycle:
		return m.Project
	case audit.Event:
		return m.Project
	}
	return ""
}

// hears reports whether who listens by a request is told of an event.
func hears(r *http.Request, e event.Event) bool {
	if snap, ok := e.Metadata.(op.Snapshot); ok && !callerOf(r).maySee(snap) {
		return false
	}
	if _, ok := e.Metadata.(audit.Event); ok && callerOf(r).bounded() {
		return false
	}
	name := projectOf(e)
	return about(r.Context(), name) || name == "" && !callerOf(r).restricted
}

// send tells a listener of an event.
func send(ctx context.Context, c *websocket.Conn, to caller, e event.Event) error {
	var metadata any
	switch m := e.Metadata.(type) {
	case op.Snapshot:
		metadata = operation(m)
	case daemon.Lifecycle:
		l := api.Lifecycle{Action: m.Action, Source: m.Source, Context: map[string]any{}}
		if to.maySeeDetails(m) {
			l.Context = orEmpty(m.Context)
		}
		if q := m.Requestor; q != nil {
			l.Requestor = &api.Requestor{Username: q.Username, Protocol: q.Protocol, Address: q.Address}
		}
		metadata = l
	case audit.Event:
		metadata = securityEvent(m)
	default:
		metadata = m
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return c.Write(ctx, websocket.MessageText, encode(api.Event{
		Type: e.Type, Timestamp: e.Time, Metadata: encode(metadata), Location: "none",
		Project: cmp.Or(projectOf(e), project.Default),
	}))
}
