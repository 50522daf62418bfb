package delta

import (
	"context"
	"sync"
)

// A slot is a job on its way through ordered.
type slot[J any] struct {
	job  J
	done chan struct{}
}

// A line is a series of jobs: made one after the other, worked on by several
// goroutines, and used in the order in which they were made.
type line[J any] struct {
	workers int
	make    func(emit func(J) error) error
	worker  func() (func(context.Context, J) error, error) // once for each worker; gives what it does
	use     func(J) error
}

// run runs the line to its end, with at most 2*workers+1 jobs on their way. The
// first error ends everything and is returned; nothing runs on afterwards.
func (l line[J]) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	fail := func(err error) {
		if err != nil {
			once.Do(func() { first = err })
			cancel()
		}
	}
	todo, order := make(chan slot[J]), make(chan slot[J], 2*l.workers-1)
	wg.Go(func() {
		defer close(order)
		defer close(todo)
		fail(l.make(emitter(ctx, todo, order)))
	})
	for range l.workers {
		wg.Go(func() {
			work, err := l.worker()
			if err != nil {
				fail(err)
				return
			}
			for s := range todo {
				fail(work(ctx, s.job))
				close(s.done)
			}
		})
	}
	fail(inOrder(ctx, order, l.use))
	wg.Wait()
	return first
}

func emitter[J any](ctx context.Context, todo, order chan slot[J]) func(J) error {
	return func(job J) error {
		s := slot[J]{job, make(chan struct{})}
		for _, to := range []chan slot[J]{order, todo} {
			select {
			case to <- s:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}
}

func inOrder[J any](ctx context.Context, order chan slot[J], use func(J) error) error {
	for s := range order {
		select {
		case <-s.done:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := use(s.job); err != nil {
			return err
		}
	}
	return nil
}
