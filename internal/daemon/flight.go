package daemon

import (
	"context"
	"sync"

	"github.com/kiln-containers/kiln"
)

// flights are the downloads under way: whoever wants the same image waits for the
// one that is.
type flights struct {
	wg     sync.WaitGroup
	mu     sync.Mutex
	flying map[string]*flight
}

type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int // it ends when nobody waits any more
	hear    map[int]func(string, int64)
	img     kiln.Image
	err     error
}

// join waits for the download of key, which it starts if none is under way. life
// is the context of the download, ctx that of the wait.
func (f *flights) join(ctx, life context.Context, key string, hear func(string, int64),
	start func(context.Context, func(string, int64)) (kiln.Image, error)) (kiln.Image, error) {
	f.mu.Lock()
	if f.flying == nil {
		f.flying = map[string]*flight{}
	}
	one, ok := f.flying[key]
	if !ok {
		one = &flight{done: make(chan struct{}), hear: map[int]func(string, int64){}}
		var fly context.Context
		fly, one.cancel = context.WithCancel(life)
		f.flying[key] = one
		f.wg.Go(func() { f.fly(fly, key, one, start) })
	}
	one.waiting++
	me := one.waiting
	for one.hear[me] != nil {
		me++
	}
	one.hear[me] = hear
	f.mu.Unlock()
	select {
	case <-one.done:
		return one.img, one.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	delete(one.hear, me)
	if one.waiting--; one.waiting == 0 {
		one.cancel()
		if f.flying[key] == one {
			delete(f.flying, key) // who comes now starts anew
		}
	}
	f.mu.Unlock()
	return kiln.Image{}, context.Cause(ctx)
}

func (f *flights) fly(ctx context.Context, key string, one *flight, start func(context.Context,
	func(string, int64)) (kiln.Image, error)) {
	defer close(one.done)
	defer one.cancel()
	one.img, one.err = start(ctx, func(server string, done int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, hear := range one.hear {
			hear(server, done)
		}
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flying[key] == one {
		delete(f.flying, key)
	}
}
