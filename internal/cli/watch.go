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
	op, err := start(ctx, at, r)
	if err != nil {
		return op, err
	}
	return a.await(ctx, at, op)
}

// start sends a request that starts an operation. What the server can tell to be wrong
// is an error before that.
func start(ctx context.Context, at place.Place, r client.Request) (api.Operation, error) {
	_, op, err := at.Do(ctx, r, nil)
	if err == nil && op == nil {
		err = kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	if err != nil {
		return api.Operation{}, err
	}
	return *op, nil
}

// dropTime is how long a server has to end an operation that nobody needs any more.
const dropTime = 5 * time.Second

// drop ends an operation, whatever has become of ctx. It may have ended by itself.
func drop(ctx context.Context, at place.Place, operation string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTime)
	defer cancel()
	_ = at.Change(ctx, http.MethodDelete, "/1.0/operations/"+operation, nil, "")
}

// await is what watch does after start.
func (a *app) await(ctx context.Context, at place.Place, op api.Operation) (api.Operation, error) {
	looking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	downloads := false
	go func() {
		defer close(done)
		downloads = a.follow(looking, at, op)
	}()
	final, err := at.Wait(ctx, op.ID)
	stop()
	<-done
	if ctx.Err() != nil {
		drop(ctx, at, op.ID)
		kept := ""
		if downloads {
			kept = "; what was downloaded is kept for a while, and the next attempt resumes it"
		}
		return op, kiln.Errorf(kiln.Cancelled, "interrupted%s", kept)
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

// follow reports on an operation until ctx ends, and gives whether it downloaded
// something.
func (a *app) follow(ctx context.Context, at place.Place, op api.Operation) (downloads bool) {
	r := &reporter{w: a.Err, animated: a.animated(), begun: time.Now()}
	defer r.clear()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return downloads
		case now := <-tick.C:
			var o api.Operation
			if _, err := at.Get(ctx, "/1.0/operations/"+op.ID, nil, &o); err != nil {
				return downloads
			}
			_, moving := o.Metadata["download_progress"]
			downloads = downloads || moving
			if !a.quiet {
				r.report(o, now)
			}
		}
	}
}
