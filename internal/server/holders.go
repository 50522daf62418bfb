package server

import (
	"context"
	"slices"
	"sync"
	"time"
)

// holders are the open connections of clients that are trusted, so that they end with the
// trust: what was begun on them, as a download or the events, would go on otherwise.
type holders struct {
	mu  sync.Mutex
	all map[*counted]caller
}

// set remembers who last asked on a connection. It reports whether that is news.
func (h *holders) set(c *counted, who caller) bool {
	h.mu.Lock()
	old, known := h.all[c]
	if h.all == nil {
		h.all = map[*counted]caller{}
	}
	h.all[c] = who
	h.mu.Unlock()
	if !known {
		expiry := time.AfterFunc(time.Until(who.cert.NotAfter), func() { c.Close() })
		c.atClose(func() {
			expiry.Stop()
			h.drop(c)
		})
	}
	return !known || who.mayMoreThan(old)
}

func (h *holders) drop(c *counted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, c)
}

func (h *holders) list() map[*counted]caller {
	h.mu.Lock()
	defer h.mu.Unlock()
	copied := make(map[*counted]caller, len(h.all))
	for c, who := range h.all {
		copied[c] = who
	}
	return copied
}

// mayMoreThan reports whether a caller may do what another may not.
func (c caller) mayMoreThan(other caller) bool {
	return c.trusted && (!other.trusted || !c.restricted && other.restricted ||
		c.restricted && slices.ContainsFunc(c.projects, func(p string) bool { return !other.mayUse(p) }))
}

// hold remembers the connection of a client that is trusted.
func (s *Server) hold(ctx context.Context, who caller) {
	conn := connOf(ctx)
	if conn == nil || !who.trusted {
		return
	}
	// The trust may have ended between the look and the note of it.
	if s.holders.set(conn, who) && who.mayMoreThan(s.whose(ctx, who.cert)) {
		conn.Close()
	}
}

// reconsider ends what clients do who aren't trusted any more, or less than they were. The
// connection that the change was asked for on gets its answer.
func (s *Server) reconsider(ctx context.Context) {
	for conn, who := range s.holders.list() {
		if conn != connOf(ctx) && who.mayMoreThan(s.whose(ctx, who.cert)) {
			conn.Close()
		}
	}
	// Websockets of a command are opened with its secret, by whomever.
	for _, x := range s.sessions.list() {
		s.endUntrusted(ctx, x)
	}
	s.d.Ops.CancelWaiting(s.gone)
}

// gone reports whether the client of a context isn't trusted any more, or less than it was.
func (s *Server) gone(ctx context.Context) bool {
	c, ok := ctx.Value(callerKey{}).(caller)
	return ok && c.trusted && c.cert != nil && c.mayMoreThan(s.whose(context.WithoutCancel(ctx), c.cert))
}

// endUntrusted ends a command whose owner isn't trusted any more, or less than before.
func (s *Server) endUntrusted(ctx context.Context, x *session) {
	if x.owner.cert != nil && x.owner.mayMoreThan(s.whose(ctx, x.owner.cert)) {
		x.close()
	}
}
