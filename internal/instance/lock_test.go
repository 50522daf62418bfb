package instance

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestTurn has an instance in other hands for longer than verbs wait: each says what that
// work is and what to do, and changes nothing.
func TestTurn(t *testing.T) {
	s, d, p := set(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	create(t, s, p, "a", Config{})
	if err := s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	before, err := d.Instance(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	type workKey struct{}
	s.Work = func(ctx context.Context) string {
		work, _ := ctx.Value(workKey{}).(string)
		return work
	}
	s.turnTime = time.Millisecond
	_, unlock, err := s.lock(context.WithValue(ctx, workKey{}, "the other one"), "a")
	if err != nil {
		t.Fatal(err)
	}
	for verb, f := range map[string]func() error{
		"start":   func() error { return s.Start(ctx, "a") },
		"kill":    func() error { return s.Stop(ctx, "a", time.Millisecond, false) },
		"restart": func() error { return s.Restart(ctx, "a", 0, false) },
		"pause":   func() error { return s.Freeze(ctx, "a") },
		"restore": func() error { return s.Restore(ctx, "a", "s0") },
		"rename":  func() error { return s.Rename(ctx, "a", "b") },
		"delete":  func() error { return s.Delete(ctx, "a", "") },
		"update": func() error {
			_, err := s.Update(ctx, "a", func(i Instance) (Config, error) { return i.Config, nil })
			return err
		},
		"snapshot":        func() error { return s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s1"}) },
		"delete snapshot": func() error { return s.DeleteSnapshot(ctx, "a", "s0") },
	} {
		err := f()
		want := kiln.Busy
		if verb == "kill" { // which has a bound of its own
			want = kiln.Timeout
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), `instance "a": waiting for the other one: `) ||
			want == kiln.Busy && !strings.Contains(err.Error(), "kiln operation list") {
			t.Errorf("%s: %v", verb, err)
		}
	}
	unlock()
	after, err := d.Instance(ctx, "a")
	if err != nil || after.Config[restartKey] != before.Config[restartKey] || after.Name != before.Name {
		t.Errorf("%+v, %v", after, err)
	}
	if _, err := s.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "a"}}, true); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}

// TestRestoreCantStop has an instance whose end isn't seen when it is killed to restore it, for
// as long as somebody waits for that: it is what it was, and nobody starts it again.
func TestRestoreCantStop(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "a", Config{Description: "now"})
	if err := s.CreateSnapshot(t.Context(), "a", NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.live["uuid-a"] = &live{box: &box.Box{}, gone: make(chan struct{})} // without a process to hold on to
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.live)
	}()
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	done := make(chan error, 1)
	go func() { done <- s.Restore(ctx, "a", "s0") }()
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		r, err := d.Instance(t.Context(), "a")
		if err != nil || len(done) > 0 {
			t.Fatal(err, len(done))
		}
		begun = r.Config[restartKey] != ""
	}
	giveUp()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("restored: %v", err)
	}
	r, err := d.Instance(t.Context(), "a")
	if err != nil || r.Config[restartKey] != "" || r.Config[restoreKey] != "" || r.Description != "now" {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestUpdateAsRefreshed gives an instance the configuration of the one that it was brought up
// to date from, as lxc copy --refresh ends: the keys that the other server keeps for itself
// are left out. Those of any other are refused.
func TestUpdateAsRefreshed(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "a", Config{})
	if err := s.edit(t.Context(), "a", func(r *db.Instance) { r.Config[refreshedKey] = "theirs" }); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]error{"theirs": nil, "another's": kiln.Invalid} {
		_, err := s.Update(t.Context(), "a", func(i Instance) (Config, error) {
			i.Options = map[string]string{UUIDKey: from, "volatile.last_state.idmap": "x", "user.from": from}
			return i.Config, nil
		})
		i, gerr := s.Get(t.Context(), "a")
		if !errors.Is(err, want) || gerr != nil || i.Options[UUIDKey] != "uuid-a" ||
			i.Options["volatile.last_state.idmap"] != "" || (i.Options["user.from"] == from) != (want == nil) {
			t.Errorf("%s: %v, %v, %v", from, err, i.Options, gerr)
		}
	}
}

// TestGuestEnds has the end of an instance come beside a change that it is told of.
func TestGuestEnds(t *testing.T) {
	var g guestServer
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := g.close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { g.tell(Instance{}, Instance{}) })
	}
	wg.Wait()
	if !g.over {
		t.Error("it may be answered again")
	}
}
