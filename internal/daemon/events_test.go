package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/store"
)

// nextLifecycle gives the next event of an action.
func nextLifecycle(t *testing.T, l *event.Listener, action string) Lifecycle {
	t.Helper()
	for {
		select {
		case e := <-l.Events():
			if c := e.Metadata.(Lifecycle); c.Action == action {
				return c
			}
		case <-time.After(time.Minute):
			t.Fatalf("no event %q", action)
		}
	}
}

// TestRequestors: events name who has asked for what happened, also when an operation
// did it after the request; what happens by itself has nobody.
func TestRequestors(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	l := d.Events.Listen("lifecycle")
	defer l.Close()
	alice := &event.Requestor{Username: "alice", Protocol: "unix", Address: "@"}
	bob := &event.Requestor{Username: "b0b", Protocol: "tls", Address: "192.0.2.1:4711"}
	expect := func(action string, want *event.Requestor) {
		t.Helper()
		if c := nextLifecycle(t, l, action); c.Requestor != want {
			t.Errorf("%s: asked for by %+v, want %+v", action, c.Requestor, want)
		}
	}
	asAlice, over := context.WithCancel(event.WithRequestor(t.Context(), alice))
	o, err := d.CreateInstance(asAlice, CreateSpec{Name: "c1", Start: true, Source: Source{Type: "image", Alias: "bb"}})
	over() // as the context of a request does when it is answered
	wait(t, o, err)
	expect("instance-created", alice)
	expect("instance-started", alice)

	asBob := event.WithRequestor(t.Context(), bob)
	o, err = d.SetInstanceState(asBob, "c1", "stop", 0, true)
	wait(t, o, err)
	expect("instance-stopped", bob)

	if err := d.instances.Start(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	expect("instance-started", nil)
	run(t, d, "c1", "(sleep 0.3; poweroff -f) >/dev/null 2>&1 </dev/null &")
	expect("instance-stopped", nil)
	images, err := d.Images.List(t.Context(), store.Query{})
	if err != nil || len(images) != 1 {
		t.Fatal(images, err)
	}
	wait(t, d.DeleteImage(asAlice, images[0].Fingerprint), nil)
	expect("image-deleted", alice)
}
