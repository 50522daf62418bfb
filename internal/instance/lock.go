package instance

import (
	"context"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// key tells instances of the same name in different projects apart.
func key(ctx context.Context, name string) string { return project.Name(ctx) + "/" + name }

// A keyLock lets one caller at a time work on the thing of a name.
type keyLock struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for its turn, or for ctx. The caller calls unlock once.
func (k *keyLock) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]chan struct{}{}
		}
		busy, taken := k.held[name]
		if !taken {
			mine := make(chan struct{})
			k.held[name] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, name)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			why := context.Cause(ctx)
			return nil, kiln.Errorf(kiln.KindOf(why), "waiting for other work on %q: %w", name, why)
		}
	}
}
