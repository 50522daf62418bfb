// Package grant keeps what is given to whoever knows a secret: join tokens, private
// images, instances on their way to another server. It doesn't know what is given.
//
// Grants are found by the SHA-256 of their secret, so that how long a look-up takes
// tells nothing of any, and so that they could be kept without the secrets themselves.
package grant

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/trust"
)

// Most bounds the grants of one kind that a client has given.
const Most = 10_000

// A Registry holds the grants of one kind. The zero value is empty.
type Registry[T any] struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]*Grant[T]
	by  map[string]int // how many there are, by who has given them
}

// A Grant gives Value to whoever knows Secret.
type Grant[T any] struct {
	Value  T
	Secret string // 64 hexadecimal digits

	registry *Registry[T]
	by       string        // who has given it
	used     chan struct{} // somebody used it
	spent    chan struct{} // closed when it was used up
	dropped  bool          // Drop was called; guarded by the registry's lock
}

// Add makes a grant of a client, by whatever name, that works until Drop. The error is Conflict
// when it has given Most: what others have given takes nothing from it.
func (r *Registry[T]) Add(by string, value T) (*Grant[T], error) {
	g := &Grant[T]{Value: value, Secret: trust.NewSecret(), registry: r, by: by, used: make(chan struct{}, 1),
		spent: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[by] >= Most {
		return nil, kiln.Errorf(kiln.Conflict, "this client has made %d secrets of this kind that nobody used yet; cancel "+
			"their operations, or wait until they expire", Most)
	}
	if r.all == nil {
		r.all, r.by = map[[sha256.Size]byte]*Grant[T]{}, map[string]int{}
	}
	r.all[key(g.Secret)] = g
	r.by[by]++
	return g, nil
}

func key(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// Use finds the grant of a secret, if it fits what it is wanted for, and prolongs it;
// nil: there is none.
func (r *Registry[T]) Use(secret string, fits func(T) bool) *Grant[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.all[key(secret)]
	if g == nil || !fits(g.Value) {
		return nil
	}
	g.Touch()
	return g
}

// Take finds the grant of a secret for one holder alone: nobody else finds it until
// GiveBack, and nobody any more after Spend. It is nil when there is none.
func (r *Registry[T]) Take(secret string) *Grant[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.all[key(secret)]
	delete(r.all, key(secret))
	return g
}

// GiveBack lets a grant that was taken be used again, unless it was dropped meanwhile.
func (g *Grant[T]) GiveBack() {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	if !g.dropped {
		g.registry.all[key(g.Secret)] = g
	}
}

// Spend uses up a grant that was taken. It is called once.
func (g *Grant[T]) Spend() { close(g.spent) }

// Touch tells Wait that the grant is being used.
func (g *Grant[T]) Touch() {
	select {
	case g.used <- struct{}{}:
	default:
	}
}

// Drop makes the secret worthless.
func (g *Grant[T]) Drop() {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	if g.dropped {
		return
	}
	g.dropped = true
	delete(g.registry.all, key(g.Secret))
	if g.registry.by[g.by]--; g.registry.by[g.by] == 0 {
		delete(g.registry.by, g.by)
	}
}

// Wait returns true when the grant was spent, and false when its time is over: so long
// after it was made, or after it was last used; zero means without end. The error is
// that of ctx.
func (g *Grant[T]) Wait(ctx context.Context, life, idle time.Duration) (spent bool, err error) {
	end, unused := after(life), (<-chan time.Time)(nil)
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-g.spent:
			return true, nil
		case <-g.used:
			unused = after(idle)
		case <-unused:
			return false, nil
		case <-end:
			return false, nil
		}
	}
}

func after(d time.Duration) <-chan time.Time {
	if d <= 0 {
		return nil
	}
	return time.After(d)
}
