package instance

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// key tells instances of the same name in different projects apart.
func key(ctx context.Context, name string) string { return project.Name(ctx) + "/" + name }

// A keyLock lets one caller at a time work on the thing of a name.
type keyLock struct {
	mu   sync.Mutex
	held map[string]*holder
}

// holder is who works on something.
type holder struct {
	work string // what that is; "": nobody knows
	done chan struct{}
}

// lock waits for its turn, or for ctx: the error says what the other work is. The caller calls
// unlock once.
func (k *keyLock) lock(ctx context.Context, name, work string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]*holder{}
		}
		busy, taken := k.held[name]
		if !taken {
			mine := &holder{work: work, done: make(chan struct{})}
			k.held[name] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, name)
				k.mu.Unlock()
				close(mine.done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy.done:
		case <-ctx.Done():
			why := context.Cause(ctx)
			return nil, kiln.Errorf(kiln.KindOf(why), "waiting for %s: %w", cmp.Or(busy.work, "other work on it"), why)
		}
	}
}

// turnTime is how long a verb waits for other work on its instance: longer than what usually
// takes its time. A Set may have another bound.
const turnTime = 2 * time.Minute

// turn bounds the wait for other work on an instance.
func turn(ctx context.Context, bound time.Duration) (waiting context.Context, cancel context.CancelFunc) {
	return context.WithTimeoutCause(ctx, bound, kiln.Errorf(kiln.Busy, "it goes on after %v; try again when it has "+
		"ended, see: kiln operation list", bound))
}

// lock lets nobody else work on an instance until unlock is called, once other work on it has
// ended, and ends what serves its files while it doesn't run. The error is Busy when that
// takes too long. The context that it gives means the instance, see Meaning.
func (s *Set) lock(ctx context.Context, name string) (meaning context.Context, unlock func(), err error) {
	waiting, cancel := turn(ctx, s.turnTime)
	defer cancel()
	return s.lockWhile(waiting, ctx, name)
}

// lockWhile is lock that waits as long as waiting lasts.
func (s *Set) lockWhile(waiting, ctx context.Context, name string) (meaning context.Context, unlock func(), err error) {
	unlock, err = s.names.lock(waiting, key(ctx, name), s.work(ctx))
	if err != nil {
		return ctx, nil, fmt.Errorf("instance %q: %w", name, err)
	}
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return ctx, unlock, nil //nolint:nilerr // who works on it finds out what is wrong
	}
	if s.running(r) == nil {
		s.endFiles(r.Config[UUIDKey], name, "started or changed")
	}
	return Meaning(ctx, fromRow(r)), unlock, nil
}

// work says what ctx is for.
func (s *Set) work(ctx context.Context) string {
	if s.Work == nil {
		return ""
	}
	return s.Work(ctx)
}
