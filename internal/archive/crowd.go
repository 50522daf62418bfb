package archive

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/kiln-containers/kiln"
)

// These bound what is remembered at once of the entries of archives: some hundred bytes each.
const (
	fewEntries  = 64 << 10 // what anybody may have who has a turn …
	turns       = 8        // … of which there are so many; one more has as many entries as there are
	mostCrowded = 8        // wait for that one, with the few that they have
)

// A Crowd is all that remembers entries of archives which are read at the pace of this host.
type Crowd struct {
	turns, large *semaphore.Weighted
	waiting      atomic.Int64
	waits        func(context.Context)
}

// NewCrowd makes one with nobody in it. waits is told of whoever has to wait because of the
// many entries that it has itself.
func NewCrowd(waits func(context.Context)) *Crowd {
	return &Crowd{turns: semaphore.NewWeighted(turns), large: semaphore.NewWeighted(1), waits: waits}
}

// A Visit is one of a crowd: it remembers the entries of one archive, or of several.
type Visit struct {
	crowd *Crowd
	ctx   context.Context

	mu      sync.Mutex
	entries int
	turn    bool
	large   bool
}

// Enter waits for a turn. Leave must be called. The error is that of ctx, which also ends what
// the visit waits for later.
func (c *Crowd) Enter(ctx context.Context) (*Visit, error) {
	if err := c.turns.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return &Visit{crowd: c, ctx: ctx, turn: true}, nil
}

// entry counts one more, and waits when they are many. While it does somebody else has its
// turn, so that small archives don't wait for large ones. Errors: Busy, and that of the
// context.
func (v *Visit) entry() error {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.entries++; v.entries <= fewEntries || v.large {
		return nil
	}
	if v.turn {
		v.crowd.turns.Release(1)
		v.turn = false
	}
	if !v.crowd.large.TryAcquire(1) {
		defer v.crowd.waiting.Add(-1)
		if v.crowd.waiting.Add(1) > mostCrowded {
			return kiln.Errorf(kiln.Busy, "%d images of more than %d files wait to be read, as many as may; try again later",
				mostCrowded, fewEntries)
		}
		v.crowd.waits(v.ctx)
		if err := v.crowd.large.Acquire(v.ctx, 1); err != nil {
			return err
		}
	}
	v.large = true
	return nil
}

// Leave says that the entries are forgotten. That of none does nothing.
func (v *Visit) Leave() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.turn {
		v.crowd.turns.Release(1)
	}
	if v.large {
		debug.FreeOSMemory() // before the next one takes as much
		v.crowd.large.Release(1)
	}
	v.turn, v.large = false, false
}
