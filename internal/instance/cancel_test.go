package instance

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln"
)

// lateCancel is a context that is cancelled when it is asked for the n-th time.
type lateCancel struct {
	context.Context
	left   atomic.Int32
	cancel func()
}

func (c *lateCancel) Done() <-chan struct{} {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.Context.Done()
}

// cancelAnywhere cancels work at every moment at which it looks, until it is done all the
// same, and calls check each time.
func cancelAnywhere(t *testing.T, work func(context.Context) error, check func(err error)) {
	t.Helper()
	for n := int32(1); ; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		late := &lateCancel{Context: ctx, cancel: cancel}
		late.left.Store(n)
		err := work(late)
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, kiln.Cancelled) || n > 1000 {
			t.Fatalf("cancelled at %d: %v", n, err)
		}
		check(err)
		if err == nil || t.Failed() {
			return
		}
	}
}

// TestCancelled: a snapshot whose row isn't written leaves no files, and a restore that
// has begun is not given up.
func TestCancelled(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "a", Config{})
	ctx := t.Context()
	cancelAnywhere(t, func(ctx context.Context) error { return s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s"}) },
		func(err error) {
			rows, rerr := d.Snapshots(ctx, "a")
			files, ferr := p.Snapshots()
			want := 0
			if err == nil {
				want = 1
			}
			if errors.Join(rerr, ferr) != nil || len(rows) != want || len(files) != want {
				t.Errorf("%v: %d rows and the files %q, %v, %v", err, len(rows), files, rerr, ferr)
			}
		})
	cancelAnywhere(t, func(ctx context.Context) error { return s.Restore(ctx, "a", "s") }, func(err error) {
		row, rerr := d.Instance(ctx, "a")
		if rerr != nil || row.Config[restoreKey] != "" {
			t.Errorf("%v: it is left to the next daemon: %v, %v", err, row.Config, rerr)
		}
	})
}
