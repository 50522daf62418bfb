package cli

import (
	"context"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// watch sends a request that starts an operation, shows how that goes, and waits
// for its end. Who interrupts it cancels the operation.
func (a *app) watch(ctx context.Context, at place.Place, r client.Request) (api.Operation, error) {
	_, op, err := at.Do(ctx, r, nil)
	if err != nil {
		return api.Operation{}, err
	}
	if op == nil {
		return api.Operation{}, kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	looking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.follow(looking, at, *op)
	}()
	final, err := at.Wait(ctx, op.ID)
	stop()
	<-done
	if ctx.Err() != nil {
		cancel, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		_ = at.Change(cancel, http.MethodDelete, "/1.0/operations/"+op.ID, nil, "") // it may be over
		return *op, kiln.Errorf(kiln.Cancelled, "interrupted; what was downloaded is kept for a while, and the next "+
			"attempt resumes it")
	}
	if warning, ok := final.Metadata["warning"].(string); ok {
		a.warn(warning)
	}
	for k, v := range op.Resources {
		if final.Resources == nil {
			final.Resources = map[string][]string{}
		}
		if len(final.Resources[k]) == 0 {
			final.Resources[k] = v
		}
	}
	return final, err
}

func (a *app) warn(text string) { a.remark("kiln: warning: %s", text) }

// followInterval is how often an operation is asked how it goes.
const followInterval = 250 * time.Millisecond

// follow reports on an operation until ctx ends.
func (a *app) follow(ctx context.Context, at place.Place, op api.Operation) {
	if a.quiet {
		return
	}
	r := &reporter{w: a.Err, animated: a.animated(), begun: time.Now()}
	defer r.clear()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			var o api.Operation
			if _, err := at.Get(ctx, "/1.0/operations/"+op.ID, nil, &o); err != nil {
				return
			}
			r.report(o, now)
		}
	}
}
