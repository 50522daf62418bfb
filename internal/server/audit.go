package server

import (
	"errors"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/op"
)

// Actions of requests that were refused, which would have had others or none.
const (
	loginRefused   = "login-refused"   // of who isn't trusted
	requestRefused = "request-refused" // of a restricted client
)

// outside is an error about the project that a request names.
type outside struct{ error }

// Unwrap is for errors.As.
func (o outside) Unwrap() error { return o.error }

// recorded has what a handler does be in the record of what matters for security: where the
// route says as what, and, of who may not do everything, whatever is refused.
func (s *Server) recorded(to route, method string, h handler) handler {
	action := to.audit[method]
	if action == "" {
		return func(w http.ResponseWriter, r *http.Request) (any, error) {
			v, err := h(w, r)
			if refusal(r, err) {
				s.d.Audit(s.result(r, s.draft(r, requestRefused).Event(), err))
			}
			return v, err
		}
	}
	return func(w http.ResponseWriter, r *http.Request) (v any, err error) {
		draft := s.draft(r, action)
		draft.Begin = func() { s.d.Audit(asBegun(draft.Event())) }
		r = r.WithContext(audit.WithDraft(r.Context(), draft))
		if path := r.URL.Query().Get("path"); path != "" {
			audit.Note(r.Context(), "path", path)
		}
		err = kiln.Errorf(kiln.Network, "the connection was broken off") // if h panics
		defer func() {
			o, ok := v.(*op.Operation)
			if !ok || err != nil {
				s.d.Audit(s.result(r, draft.Event(), err))
				return
			}
			s.d.Audit(asBegun(inOperation(draft.Event(), o.Snapshot())))
			o.AtEnd(func(snap op.Snapshot) {
				s.d.Audit(s.result(r, inOperation(draft.Event(), snap), snap.Err))
			})
		}()
		return h(w, r)
	}
}

func (s *Server) draft(r *http.Request, action string) *audit.Draft {
	return audit.NewDraft(audit.Event{Action: action, Source: r.URL.Path, Who: audit.WhoOf(r.Context())})
}

func asBegun(e audit.Event) audit.Event {
	e.Result = audit.Begun
	return e
}

// inOperation says in which operation something was done, and with which status a command ended.
func inOperation(e audit.Event, snap op.Snapshot) audit.Event {
	e.Operation = snap.ID
	if code, ok := snap.Metadata["return"]; ok {
		e.Context["return"] = code
	}
	return e
}

// refusal reports whether an error is that a caller may not have what it asks for. A restricted
// client isn't told that there are other projects.
func refusal(r *http.Request, err error) bool {
	c := callerOf(r)
	var o outside
	return c.bounded() && errors.Is(err, kiln.Denied) ||
		c.restricted && errors.As(err, &o) && errors.Is(err, kiln.NotFound)
}

// result completes an event with how a request went.
func (s *Server) result(r *http.Request, e audit.Event, err error) audit.Event {
	c := callerOf(r)
	switch {
	case err == nil:
		e.Result = audit.OK
		return e
	case !refusal(r, err):
		e.Result, e.Reason = audit.Failed, err.Error()
		return e
	}
	e.Result, e.Reason = audit.Refused, err.Error()
	if e.Context == nil {
		e.Context = map[string]any{}
	}
	e.Context["method"] = r.Method
	if !c.trusted {
		e.Action = loginRefused
		if e.Reason == notAuthorized {
			e.Reason = s.d.WhyUntrusted(r.Context(), c.cert)
		}
	}
	return e
}

// securityEvent is an event on the wire.
func securityEvent(e audit.Event) api.SecurityEvent {
	out := api.SecurityEvent{Time: e.Time, Action: e.Action, Result: string(e.Result), Reason: e.Reason, Source: e.Source,
		Project: e.Project, Operation: e.Operation, Context: e.Context}
	if w := e.Who; w != nil {
		out.Requestor = &api.SecurityRequestor{Method: w.Method, Name: w.Name, Certificate: w.Certificate, UID: w.UID,
			PID: w.PID, Address: w.Address, Restricted: w.Restricted, Trusted: w.Trusted, Request: w.Request}
	}
	return out
}
