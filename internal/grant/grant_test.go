package grant

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-containers/kiln"
)

func anything(int) bool { return true }

func add(t *testing.T, r *Registry[int], value int) *Grant[int] {
	t.Helper()
	g, err := r.Add("a", value)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestUse(t *testing.T) {
	var r Registry[int]
	g, other := add(t, &r, 1), add(t, &r, 2)
	if got := r.Use(g.Secret, anything); got != g || got.Value != 1 {
		t.Errorf("%+v", got)
	}
	for _, secret := range []string{"", "x", g.Secret[:63], g.Secret + "0"} {
		if r.Use(secret, anything) != nil || r.Take(secret) != nil {
			t.Errorf("%q opens something", secret)
		}
	}
	if r.Use(g.Secret, func(v int) bool { return v == 2 }) != nil {
		t.Error("a secret opens what it isn't for")
	}
	g.Drop()
	if r.Use(g.Secret, anything) != nil || r.Use(other.Secret, anything) != other {
		t.Error("the wrong one was dropped")
	}
}

// TestTake has many who show one secret: one gets it. Given back it works again, but
// not when it was dropped meanwhile.
func TestTake(t *testing.T) {
	var r Registry[int]
	g := add(t, &r, 1)
	var taken atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r.Take(g.Secret) != nil {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 {
		t.Errorf("%d have it", taken.Load())
	}
	g.GiveBack()
	if r.Take(g.Secret) != g {
		t.Error("it wasn't given back")
	}
	g.Drop()
	g.GiveBack()
	if r.Take(g.Secret) != nil {
		t.Error("it works after it was dropped")
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Registry[int]
		begin := time.Now()
		g := add(t, &r, 1)
		if spent, err := g.Wait(t.Context(), time.Hour, time.Minute); spent || err != nil || time.Since(begin) != time.Hour {
			t.Errorf("unused: %v, %v after %v", spent, err, time.Since(begin))
		}
		begin = time.Now()
		go func() {
			for range 10 {
				time.Sleep(50 * time.Second)
				r.Use(g.Secret, anything)
			}
		}()
		want := 10*50*time.Second + time.Minute
		if spent, err := g.Wait(t.Context(), time.Hour, time.Minute); spent || err != nil || time.Since(begin) != want {
			t.Errorf("used: %v, %v after %v", spent, err, time.Since(begin))
		}
		go func() {
			time.Sleep(time.Second)
			r.Take(g.Secret).Spend()
		}()
		if spent, err := g.Wait(t.Context(), 0, 0); !spent || err != nil {
			t.Errorf("spent: %v, %v", spent, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := add(t, &r, 2).Wait(ctx, 0, 0); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestMost has a client give as many as it may: others may as well, and it may again when one
// is dropped, also one that somebody has taken.
func TestMost(t *testing.T) {
	var r Registry[int]
	var last *Grant[int]
	for i := range Most {
		last = add(t, &r, i)
	}
	if _, err := r.Add("a", 0); !errors.Is(err, kiln.Conflict) {
		t.Errorf("one more: %v", err)
	}
	other, err := r.Add("b", 0)
	if err != nil {
		t.Errorf("of another: %v", err)
	}
	r.Take(last.Secret)
	if _, err := r.Add("a", 0); !errors.Is(err, kiln.Conflict) {
		t.Errorf("one more while one is taken: %v", err)
	}
	for range 2 {
		last.Drop()
		other.Drop()
	}
	add(t, &r, 0)
	if _, err := r.Add("a", 0); !errors.Is(err, kiln.Conflict) {
		t.Errorf("one more after one: %v", err)
	}
	if len(r.by) != 1 {
		t.Errorf("it remembers who has given none: %v", r.by)
	}
}
