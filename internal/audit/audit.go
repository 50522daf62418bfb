// Package audit keeps a record of what matters for the security of a server: who did
// what, from where, and how it went. The record has a bound on its size, whatever happens,
// and nobody waits for it. The package knows neither requests nor what actions mean.
package audit

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"
)

// A Result is how something went.
type Result string

// What begins and takes its time has two events: Begun, and one of the others at its end.
const (
	Begun   Result = "begun"
	OK      Result = "ok"
	Refused Result = "refused" // who asked for it may not have it
	Failed  Result = "failed"
)

// An Event is one line of the record. Its JSON is the format of the files, which
// docs/reference/audit.md describes.
type Event struct {
	Time      time.Time      `json:"time"`
	Action    string         `json:"action"`              // "instance-exec"
	Result    Result         `json:"result"`              //
	Reason    string         `json:"reason,omitempty"`    // why it was refused or failed
	Source    string         `json:"source,omitempty"`    // URL of what it was done to
	Project   string         `json:"project,omitempty"`   // that this is in; "": in none
	Who       *Who           `json:"requestor,omitempty"` // nil: the daemon did it unasked
	Operation string         `json:"operation,omitempty"` // in which it was done
	Context   map[string]any `json:"context,omitempty"`

	// Kept is for what something else bounds than how often it happens: if it went well, it is
	// never left out.
	Kept bool `json:"-"`
}

// Who is who asked for something.
type Who struct {
	Method      string  `json:"method"`                // one of the constants below
	Name        string  `json:"name,omitempty"`        // of the local user, or that a client is trusted by
	Certificate string  `json:"certificate,omitempty"` // fingerprint of what the client showed
	UID         *uint32 `json:"uid,omitempty"`         // of the process at the other end of the socket
	PID         *int32  `json:"pid,omitempty"`
	Address     string  `json:"address"`              // with the port; "@" for the unix socket
	Restricted  bool    `json:"restricted,omitempty"` // to projects
	Trusted     bool    `json:"trusted"`
	Request     string  `json:"request"`         // the request's name, as in X-Request-Id
	Trace       string  `json:"trace,omitempty"` // that the request is part of, by traceparent
}

// The ways in which somebody proves who it is.
const (
	Unix      = "unix"      // may open the socket
	TLS       = "tls"       // shows a certificate, which needn't be trusted
	Anonymous = "anonymous" // shows nothing
)

type whoKey struct{}

// WithWho says on whose behalf a context's work is done.
func WithWho(ctx context.Context, w *Who) context.Context { return context.WithValue(ctx, whoKey{}, w) }

// WhoOf tells on whose behalf a context's work is done; nil: nobody asked for it.
func WhoOf(ctx context.Context) *Who {
	w, _ := ctx.Value(whoKey{}).(*Who)
	return w
}

// A Draft is the event of work that is under way. Whoever does the work says more of it.
type Draft struct {
	// Begin is called when the work begins, if that takes its time; nil: nobody cares.
	Begin func()

	mu sync.Mutex
	e  Event
}

// NewDraft begins with what is known already.
func NewDraft(e Event) *Draft { return &Draft{e: e} }

// Event is the event as far as it is known, with a copy of its context.
func (d *Draft) Event() Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.e
	e.Context = make(map[string]any, len(d.e.Context))
	for k, v := range d.e.Context {
		e.Context[k] = v
	}
	return e
}

func (d *Draft) edit(f func(*Event)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.e)
}

type draftKey struct{}

// WithDraft has the work of a context be what a draft is about.
func WithDraft(ctx context.Context, d *Draft) context.Context {
	return context.WithValue(ctx, draftKey{}, d)
}

func draftOf(ctx context.Context) *Draft {
	d, _ := ctx.Value(draftKey{}).(*Draft)
	return d
}

// Note says one more thing of the work of a context, if there is a record of it.
func Note(ctx context.Context, key string, value any) {
	if d := draftOf(ctx); d != nil {
		d.edit(func(e *Event) {
			if e.Context == nil {
				e.Context = map[string]any{}
			}
			e.Context[key] = value
		})
	}
}

// About says to what the work of a context is done: "" leaves one of the two as it was.
func About(ctx context.Context, action, source string) {
	if d := draftOf(ctx); d != nil {
		d.edit(func(e *Event) {
			if action != "" {
				e.Action = action
			}
			if source != "" {
				e.Source = source
			}
		})
	}
}

// Keep says of the work of a context that Kept holds for it.
func Keep(ctx context.Context) {
	if d := draftOf(ctx); d != nil {
		d.edit(func(e *Event) { e.Kept = true })
	}
}

// InProject says in which project the work of a context is done.
func InProject(ctx context.Context, name string) {
	if d := draftOf(ctx); d != nil {
		d.edit(func(e *Event) { e.Project = name })
	}
}

// Began says that the work of a context begins, which takes its time.
func Began(ctx context.Context) {
	if d := draftOf(ctx); d != nil && d.Begin != nil {
		d.Begin()
	}
}

// These bound what a line has of somebody's words: bytes of a text, and texts of a list.
const (
	longest = 1 << 10
	most    = 64
)

// bounded is an event as it is written: what others chose isn't longer than it may be.
func bounded(e Event) Event {
	e.Reason, e.Source = short(e.Reason), short(e.Source)
	if e.Who != nil {
		w := *e.Who
		w.Name = short(w.Name)
		e.Who = &w
	}
	context := make(map[string]any, len(e.Context))
	for k, v := range e.Context {
		switch v := v.(type) {
		case string:
			context[k] = short(v)
		case []string:
			context[k] = shortList(v)
		default:
			context[k] = v
		}
	}
	e.Context = context
	return e
}

func short(s string) string {
	if len(s) <= longest {
		return s
	}
	cut := longest
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// shortList bounds all texts of a list together.
func shortList(list []string) []string {
	out := []string{}
	left := 4 * longest
	for i, s := range list {
		if s = short(s); i == most || len(s) > left {
			return append(out, "…")
		}
		left -= len(s)
		out = append(out, s)
	}
	return out
}
