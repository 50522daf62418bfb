package event

import "testing"

func TestTypes(t *testing.T) {
	h := NewHub()
	all, some := h.Listen(), h.Listen("lifecycle")
	h.Send("operation", 1)
	h.Send("lifecycle", 2)
	all.Close()
	some.Close()
	some.Close() // twice does no harm
	count := func(l *Listener) (n int) {
		for range l.Events() {
			n++
		}
		return n
	}
	if a, s := count(all), count(some); a != 2 || s != 1 {
		t.Errorf("got %d and %d events, want 2 and 1", a, s)
	}
	h.Send("lifecycle", 3) // nobody listens
}

func TestSlowListenerIsDropped(t *testing.T) {
	h := NewHub()
	l := h.Listen()
	for i := range backlog + 1 {
		h.Send("operation", i)
	}
	n := 0
	for range l.Events() { // ends, since the channel is closed
		n++
	}
	if n != backlog {
		t.Errorf("got %d events", n)
	}
}
