package archive

import (
	"context"
	"errors"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestCrowd has many remember more entries than a few: one does at a time, so many wait for it,
// and small archives wait for none of them.
func TestCrowd(t *testing.T) {
	waiting := make(chan context.Context, mostCrowded)
	c := NewCrowd(func(ctx context.Context) { waiting <- ctx })
	enter := func(ctx context.Context) *Visit {
		t.Helper()
		v, err := c.Enter(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	grow := func(v *Visit, n int) error {
		for range n {
			if err := v.entry(); err != nil {
				return err
			}
		}
		return nil
	}
	first := enter(t.Context())
	if err := grow(first, 2*fewEntries); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, mostCrowded)
	for range mostCrowded {
		v := enter(ctx)
		go func() {
			err := grow(v, fewEntries+1)
			v.Leave()
			ended <- err
		}()
		<-waiting
	}
	last := enter(t.Context())
	if err := grow(last, fewEntries+1); !errors.Is(err, kiln.Busy) {
		t.Error("one more waits:", err)
	}
	last.Leave()
	for range turns { // as many turns as ever
		v := enter(t.Context())
		if err := grow(v, fewEntries); err != nil {
			t.Error(err)
		}
		defer v.Leave()
	}
	if _, err := c.Enter(canceled(t)); err == nil {
		t.Error("there is one more turn")
	}
	first.Leave()
	if err := <-ended; err != nil { // the next one
		t.Error(err)
	}
	cancel()
	for range mostCrowded - 1 {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if n := c.waiting.Load(); n != 0 {
		t.Errorf("%d wait yet", n)
	}
	v := &Visit{crowd: c, ctx: t.Context()}
	if err := grow(v, fewEntries+1); err != nil {
		t.Error("after all have left:", err)
	}
	v.Leave()
	v.Leave() // once more is nothing
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
