package guestapi

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln/internal/event"
)

// The types of events.
const (
	configEvent = "config"
	deviceEvent = "device"
)

// A message is an event on the wire.
type message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Metadata  any       `json:"metadata"`
}

type configChange struct {
	Key      string `json:"key"`
	OldValue string `json:"old_value"`
	Value    string `json:"value"`
}

type deviceChange struct {
	Action string            `json:"action"` // added, removed, updated
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
}

// Changed tells whoever listens in the container what isn't any more as it was.
func (s *Server) Changed(was, is About) {
	for _, key := range union(was.Config, is.Config) {
		if For(key) && was.Config[key] != is.Config[key] {
			s.events.Send(configEvent, configChange{key, was.Config[key], is.Config[key]})
		}
	}
	for _, name := range union(was.Devices, is.Devices) {
		before, had := was.Devices[name]
		after, has := is.Devices[name]
		switch {
		case had && !has:
			s.events.Send(deviceEvent, deviceChange{"removed", name, before})
		case has && !had:
			s.events.Send(deviceEvent, deviceChange{"added", name, after})
		case !maps.Equal(before, after):
			s.events.Send(deviceEvent, deviceChange{"updated", name, after})
		}
	}
}

func union[V any](a, b map[string]V) []string {
	both := maps.Clone(a)
	if both == nil {
		both = map[string]V{}
	}
	maps.Copy(both, b)
	return slices.Sorted(maps.Keys(both))
}

// sendEvents tells what happens until the container has heard enough: as messages of a
// websocket, or as lines.
func (s *Server) sendEvents(w http.ResponseWriter, r *http.Request) {
	var types []string
	if t := r.URL.Query().Get("type"); t != "" {
		types = strings.Split(t, ",")
	}
	for _, t := range types {
		if t != configEvent && t != deviceEvent {
			http.Error(w, "the types of events are "+configEvent+" and "+deviceEvent, http.StatusBadRequest)
			return
		}
	}
	l := s.events.Listen(types...)
	defer l.Close()
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		sendMessages(w, r, l)
		return
	}
	sendLines(w, r, l)
}

func sendMessages(w http.ResponseWriter, r *http.Request, l *event.Listener) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, // no browser opens the socket
		CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // the library has answered
	}
	defer c.CloseNow()
	ctx := c.CloseRead(r.Context())
	tell(ctx, l, func(line []byte) error {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		return c.Write(ctx, websocket.MessageText, line)
	})
	_ = c.Close(websocket.StatusGoingAway, "")
}

func sendLines(w http.ResponseWriter, r *http.Request, l *event.Listener) {
	w.Header().Set("Content-Type", "application/json")
	out := http.NewResponseController(w)
	if out.SetReadDeadline(time.Time{}) != nil || out.Flush() != nil {
		return
	}
	tell(r.Context(), l, func(line []byte) error {
		if _, err := (patient{w}).Write(append(line, '\n')); err != nil {
			return err
		}
		return out.Flush()
	})
}

// tell hands events over until one can't be, or the listener or ctx ends.
func tell(ctx context.Context, l *event.Listener, send func(line []byte) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-l.Events():
			if !ok {
				return
			}
			line, err := json.Marshal(message{e.Type, e.Time, e.Metadata})
			if err != nil || send(line) != nil {
				return
			}
		}
	}
}

// patient gives a container time for each piece of a long answer.
type patient struct{ http.ResponseWriter }

// Write implements io.Writer.
func (p patient) Write(b []byte) (int, error) {
	if err := http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (p patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
