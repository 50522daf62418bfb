package instance

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
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
