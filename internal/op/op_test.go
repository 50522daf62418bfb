package op

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-containers/kiln"
)

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen []Status
		table := NewTable(func(s Snapshot) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, s.Status)
		})
		defer table.Close()
		goOn := make(chan struct{})
		o := table.Start(t.Context(), "Testing", Options{Metadata: map[string]any{"a": 1}}, func(_ context.Context, o *Operation) error {
			o.Set("b", 2)
			<-goOn
			return nil
		})
		synctest.Wait()
		if s := o.Snapshot(); s.Status != Running || s.Metadata["a"] != 1 || s.Metadata["b"] != 2 || s.Class != Task {
			t.Fatalf("under way: %+v", s)
		}
		close(goOn)
		if s := o.Wait(t.Context()); s.Status != Success || s.Err != nil {
			t.Fatalf("at the end: %+v", s)
		}
		synctest.Wait()
		mu.Lock()
		if len(seen) != 4 || seen[0] != Pending || seen[3] != Success {
			t.Errorf("told: %v", seen)
		}
		mu.Unlock()
		time.Sleep(Keep - time.Second)
		if _, err := table.Get(o.ID()); err != nil {
			t.Errorf("forgotten too early: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := table.Get(o.ID()); !errors.Is(err, kiln.NotFound) {
			t.Errorf("still there: %v", err)
		}
	})
}

func TestCancel(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	defer table.Close()
	wait := func(ctx context.Context, _ *Operation) error {
		<-ctx.Done()
		return ctx.Err()
	}
	fixed := table.Start(t.Context(), "Fixed", Options{}, wait)
	if err := fixed.Cancel(); !errors.Is(err, kiln.Invalid) {
		t.Errorf("cancelled what can't be: %v", err)
	}
	o := table.Start(t.Context(), "Loose", Options{MayCancel: true}, wait)
	if err := o.Cancel(); err != nil {
		t.Fatal(err)
	}
	if s := o.Wait(t.Context()); s.Status != Cancelled || !errors.Is(s.Err, context.Canceled) {
		t.Errorf("after Cancel: %+v", s)
	}
	if err := o.Cancel(); !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), "Only running operations") {
		t.Errorf("cancelled twice: %v", err)
	}
}

// TestStartAfterClose has an operation that is started too late end as a cancelled one,
// and Close wait for nothing that begins after it.
func TestStartAfterClose(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				table.Start(t.Context(), "Racing", Options{}, func(context.Context, *Operation) error { return nil }).Wait(t.Context())
			}
		})
	}
	table.Close()
	wg.Wait()
	o := table.Start(t.Context(), "Late", Options{}, func(context.Context, *Operation) error {
		t.Error("it runs")
		return nil
	})
	if s := o.Wait(t.Context()); s.Status != Cancelled {
		t.Errorf("%+v", s)
	}
}

func TestWaitTimesOut(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	defer table.Close()
	o := table.Start(t.Context(), "Slow", Options{}, func(ctx context.Context, _ *Operation) error {
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if s := o.Wait(ctx); s.Status != Running {
		t.Errorf("after the timeout: %v", s.Status)
	}
}

func TestFailure(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	defer table.Close()
	o := table.Start(t.Context(), "Bad", Options{},
		func(context.Context, *Operation) error { return kiln.Errorf(kiln.Conflict, "taken") })
	if s := o.Wait(t.Context()); s.Status != Failure || kiln.KindOf(s.Err) != kiln.Conflict {
		t.Errorf("%+v", s)
	}
	if n := table.Load().Working; n != 0 {
		t.Errorf("%d operations work after all ended", n)
	}
	wait := func(ctx context.Context, _ *Operation) error { <-ctx.Done(); return nil }
	table.Start(t.Context(), "Works", Options{}, wait)
	table.Start(t.Context(), "Waits", Options{Class: Token}, wait)
	if n := table.Load().Working; n != 1 {
		t.Errorf("%d operations work, of one and a token", n)
	}
	if list := table.List(); len(list) != 3 {
		t.Errorf("List: %v", list)
	}
}

// TestOverIsOver changes an operation that is over, and what was told of one: neither becomes
// anything else.
func TestOverIsOver(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	defer table.Close()
	o := table.Start(t.Context(), "Testing", Options{Metadata: map[string]any{"a": 1},
		Resources: map[string][]string{"instances": {"c1"}}}, func(context.Context, *Operation) error { return nil })
	s := o.Wait(t.Context())
	s.Metadata["a"], s.Resources["instances"] = 2, nil
	o.Set("b", 3)
	if s := o.Snapshot(); s.Status != Success || s.Err != nil || len(s.Metadata) != 1 || s.Metadata["a"] != 1 ||
		len(s.Resources["instances"]) != 1 {
		t.Errorf("%+v", s)
	}
}

// TestLoads counts what each owner has under way, and ends what waits for an owner that is gone.
func TestLoads(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	defer table.Close()
	wait := func(ctx context.Context, _ *Operation) error { <-ctx.Done(); return ctx.Err() }
	a, b := WithOwner(t.Context(), "a"), WithOwner(t.Context(), "b")
	token := table.Start(a, "Token", Options{Class: Token}, wait)
	peer := table.Start(a, "Peer", Options{Waits: true}, wait)
	joined := table.Start(a, "Joined", Options{Waits: true}, wait)
	others := table.Start(b, "Others", Options{Class: Token}, wait)
	if l := table.LoadOf("a"); l != (Load{Working: 2, Waiting: 3}) || joined.Snapshot().Owner != "a" {
		t.Errorf("%+v", l)
	}
	joined.Joined()
	joined.Joined()
	own, release := table.Hold("a")
	if own != (Load{Working: 3, Waiting: 2}) {
		t.Errorf("%+v", own)
	}
	release()
	// The one that nobody has to wait for is told to end by nobody.
	gone := func(ctx context.Context) bool { return ctx.Value(ownerKey{}) == "a" }
	joined.CancelWaiting(gone)
	if err := joined.ctx.Err(); err != nil {
		t.Error(err)
	}
	table.CancelWaiting(gone)
	for _, o := range []*Operation{token, peer} {
		if s := o.Wait(t.Context()); s.Status != Cancelled {
			t.Errorf("%s: %v", s.Description, s.Status)
		}
	}
	for _, o := range []*Operation{joined, others} {
		if s := o.Snapshot(); s.Status != Running {
			t.Errorf("%s: %v", s.Description, s.Status)
		}
	}
	if l := table.Load(); l != (Load{Working: 1, Waiting: 1}) {
		t.Errorf("%+v", l)
	}
}

// TestAtEnd: who wants to hear of the end does once, whenever it comes.
func TestAtEnd(t *testing.T) {
	table := NewTable(func(Snapshot) {})
	goOn := make(chan struct{})
	wrong := kiln.Errorf(kiln.Invalid, "wrong")
	o := table.Start(t.Context(), "Testing", Options{}, func(context.Context, *Operation) error {
		<-goOn
		return wrong
	})
	heard := make(chan Snapshot, 3)
	o.AtEnd(func(s Snapshot) { heard <- s })
	o.AtEnd(func(s Snapshot) { heard <- s })
	close(goOn)
	table.Close()
	o.AtEnd(func(s Snapshot) { heard <- s })
	close(heard)
	n := 0
	for s := range heard {
		if n++; s.Status != Failure || !errors.Is(s.Err, wrong) {
			t.Errorf("%+v", s)
		}
	}
	if n != 3 {
		t.Errorf("heard %d times", n)
	}
}
