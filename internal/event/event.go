// Package event fans out what happened to whoever listens. It knows nothing of
// what the events mean, nor how they travel.
package event

import (
	"sync"
	"time"
)

// An Event is something that happened. Metadata is one value of the wire,
// encoded by the listener.
type Event struct {
	Type     string // "operation", "lifecycle", "logging" or "security"
	Time     time.Time
	Metadata any
}

// A Hub hands every event sent to it to every listener.
type Hub struct {
	mu        sync.Mutex
	listeners map[*Listener]struct{}
	closed    bool
}

// NewHub makes a hub without listeners.
func NewHub() *Hub { return &Hub{listeners: map[*Listener]struct{}{}} }

// backlog is how many events a listener may lag behind before it is dropped.
const backlog = 1024

// A Listener receives events until it is closed, or dropped for being slow.
type Listener struct {
	hub   *Hub
	types map[string]bool
	c     chan Event
}

// Listen receives the events of the given types from now on; of all types when
// none is given.
func (h *Hub) Listen(types ...string) *Listener {
	l := &Listener{hub: h, types: map[string]bool{}, c: make(chan Event, backlog)}
	for _, t := range types {
		l.types[t] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners[l] = struct{}{}
	if h.closed {
		h.drop(l)
	}
	return l
}

// Close drops every listener, and those who come after: nothing happens any more.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for l := range h.listeners {
		h.drop(l)
	}
}

// Events is closed after Close, also the hub's, and when the listener was too slow: a
// listener that missed something must know.
func (l *Listener) Events() <-chan Event { return l.c }

// Close stops listening.
func (l *Listener) Close() {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	l.hub.drop(l)
}

// Send hands an event to the listeners. It never blocks.
func (h *Hub) Send(kind string, metadata any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := Event{Type: kind, Time: time.Now(), Metadata: metadata}
	for l := range h.listeners {
		if len(l.types) > 0 && !l.types[kind] {
			continue
		}
		select {
		case l.c <- e:
		default:
			h.drop(l)
		}
	}
}

func (h *Hub) drop(l *Listener) {
	if _, ok := h.listeners[l]; ok {
		delete(h.listeners, l)
		close(l.c)
	}
}
