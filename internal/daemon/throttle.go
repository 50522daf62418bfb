package daemon

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kiln-containers/kiln"
)

// A throttle slows down who guesses passwords. A guess is judged when its address has waited for
// its wrong ones before, and one of an address at a time: so it makes no difference who hangs up,
// or how many connections somebody has. Other addresses don't wait for that.
type throttle struct {
	hashing *semaphore.Weighted // hashing is made to be slow

	mu     sync.Mutex
	failed map[string]*guesses // by address
}

// guesses are those of one address.
type guesses struct {
	turn  chan struct{} // has one in it while somebody has the turn
	here  int           // guesses that are under way
	wrong int
	last  time.Time // when the last wrong one was judged
}

// Bounds of the addresses that are remembered, of the guesses of one that are under way, and of
// those of all addresses that are hashed at once.
const (
	mostFailed  = 10_000
	mostGuesses = 4
	mostHashing = 2
)

// longestDebt is how long an address waits at most after a wrong guess.
const longestDebt = 10 * time.Second

func newThrottle() *throttle {
	return &throttle{hashing: semaphore.NewWeighted(mostHashing), failed: map[string]*guesses{}}
}

// judge has a guess of an address judged when its turn has come. Errors: Busy when too many of
// them wait, and that of ctx, which ends the waiting.
func (g *throttle) judge(ctx context.Context, from string, right func() bool) (bool, error) {
	a, err := g.enter(from)
	if err != nil {
		return false, err
	}
	defer g.leave(from, a)
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	debt := time.NewTimer(g.debt(a, time.Now()))
	defer debt.Stop()
	select {
	case <-debt.C:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	if err := g.hashing.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer g.hashing.Release(1)
	if !right() {
		g.note(a, time.Now())
		return false, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a.wrong = 0
	return true, nil
}

// enter begins a guess of an address. Of too many addresses the one is forgotten that has been
// quiet for longest. The error is Busy.
func (g *throttle) enter(from string) (*guesses, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.failed[from]
	if a == nil {
		if len(g.failed) >= mostFailed {
			g.forget()
		}
		a = &guesses{turn: make(chan struct{}, 1)}
	}
	if a.here >= mostGuesses || len(g.failed) >= mostFailed && a.here == 0 && g.failed[from] == nil {
		return nil, kiln.Errorf(kiln.Busy, "too many passwords are being tried; try again later, or with a token")
	}
	g.failed[from] = a
	a.here++
	return a, nil
}

// forget makes room for an address, if there is one of which no guess is under way. The lock is
// held.
func (g *throttle) forget() {
	oldest := ""
	for from, a := range g.failed {
		if a.here == 0 && (oldest == "" || a.last.Before(g.failed[oldest].last)) {
			oldest = from
		}
	}
	delete(g.failed, oldest)
}

// leave ends a guess. An address that owes nothing needn't be remembered.
func (g *throttle) leave(from string, a *guesses) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.here--; a.here == 0 && a.wrong == 0 {
		delete(g.failed, from)
	}
}

// note counts one more wrong guess.
func (g *throttle) note(a *guesses, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a.wrong++
	a.last = now
}

// debt is how long an address has to wait still: twice as long after each wrong guess.
func (g *throttle) debt(a *guesses, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.wrong == 0 {
		return 0
	}
	return min(100*time.Millisecond<<min(a.wrong-1, 10), longestDebt) - now.Sub(a.last)
}
