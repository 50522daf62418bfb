package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestThrottleRemembers has more addresses guess wrong than are remembered: only those
// that have been quiet for longest are forgotten, and memory stays bounded.
func TestThrottleRemembers(t *testing.T) {
	g := newThrottle()
	now := time.Unix(1000, 0)
	wrong := func(from string, at time.Time) int {
		t.Helper()
		a, err := g.enter(from)
		if err != nil {
			t.Fatal(err)
		}
		defer g.leave(from, a)
		g.note(a, at)
		return a.wrong
	}
	for range 5 {
		wrong("persistent", now)
	}
	wrong("quiet", now.Add(-time.Second))
	for n := range mostFailed + 500 {
		now = now.Add(time.Millisecond)
		wrong(fmt.Sprint("other ", n), now)
		if n%1000 == 0 {
			wrong("persistent", now)
		}
	}
	if len(g.failed) > mostFailed {
		t.Errorf("%d addresses are remembered", len(g.failed))
	}
	if n := wrong("persistent", now); n < 5+10 {
		t.Errorf("an address that goes on has %d wrong guesses", n)
	}
	if n := wrong("quiet", now); n != 1 {
		t.Errorf("one that was quiet for long still has %d", n)
	}
	if ok, err := g.judge(t.Context(), "other", func() bool { return true }); !ok || err != nil || g.failed["other"] != nil {
		t.Errorf("a right answer: %v, %v, %v", ok, err, g.failed["other"])
	}
}

// TestThrottleHangsUp has one address guess by many connections that don't wait for the
// answer: it has as few guesses judged as by one that does, and another address doesn't wait.
func TestThrottleHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hash = 150 * time.Millisecond
		g := newThrottle()
		var judged atomic.Int64
		slow := func(right bool) func() bool {
			return func() bool { time.Sleep(hash); judged.Add(1); return right }
		}
		end := time.Now().Add(10 * time.Minute)
		for range 50 {
			go func() {
				for time.Now().Before(end) {
					ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
					_, _ = g.judge(ctx, "192.0.2.1", slow(false))
					<-ctx.Done()
					cancel()
				}
			}()
		}
		time.Sleep(time.Minute)
		begin := time.Now()
		if ok, err := g.judge(t.Context(), "192.0.2.2", slow(true)); !ok || err != nil || time.Since(begin) != hash {
			t.Errorf("another address: %v, %v, after %v", ok, err, time.Since(begin))
		}
		time.Sleep(time.Until(end) + time.Minute)
		// Some double the debt, and then there is one in ten seconds.
		if n := judged.Load(); n < 10 || n > 75 {
			t.Errorf("%d guesses of one address were judged in ten minutes", n)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.failed["192.0.2.1"].here != 0 || len(g.failed) != 1 {
			t.Errorf("left: %+v", g.failed)
		}
	})
}

// TestThrottleWaits has the guesses of one address wait for its debt, the right one as well, few
// of them at once, and until they are broken off.
func TestThrottleWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newThrottle()
		for range 20 {
			if ok, err := g.judge(t.Context(), "a", func() bool { return false }); ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range mostGuesses {
			go func() {
				if _, err := g.judge(ctx, "a", func() bool { t.Error("judged"); return true }); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		if _, err := g.judge(t.Context(), "a", func() bool { return true }); !errors.Is(err, kiln.Busy) {
			t.Errorf("one more: %v", err)
		}
		cancel()
		synctest.Wait()
		begin := time.Now()
		ok, err := g.judge(t.Context(), "a", func() bool { return true })
		if !ok || err != nil || time.Since(begin) != longestDebt || len(g.failed) > 0 {
			t.Errorf("the right one: %v, %v, after %v; left: %v", ok, err, time.Since(begin), g.failed)
		}
	})
}
