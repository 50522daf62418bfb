package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
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
		a.showProgress(looking, at, op.ID)
	}()
	final, err := at.Wait(ctx, op.ID)
	stop()
	<-done
	if ctx.Err() != nil {
		cancel, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		_ = at.Change(cancel, http.MethodDelete, "/1.0/operations/"+op.ID, nil, "") // it may be over
		return *op, kiln.Errorf(kiln.Cancelled, "interrupted; what was downloaded is kept for a while, and the next "+
			"attempt goes on with it")
	}
	if warning, ok := final.Metadata["warning"].(string); ok {
		a.remark("kiln: warning: %s", warning)
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

// showProgress shows an operation's progress in one line of a terminal.
func (a *app) showProgress(ctx context.Context, at place.Place, id string) {
	if a.quiet || !terminal(a.Err) {
		return
	}
	shown := 0
	defer func() {
		if shown > 0 {
			fmt.Fprintf(a.Err, "\r%s\r", strings.Repeat(" ", shown))
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(250 * time.Millisecond):
		}
		var o api.Operation
		if _, err := at.Get(ctx, "/1.0/operations/"+id, nil, &o); err != nil {
			return
		}
		for k, v := range o.Metadata {
			if text, ok := v.(string); ok && strings.HasSuffix(k, "_progress") {
				fmt.Fprintf(a.Err, "\r%-*s", shown, text)
				shown = max(shown, len(text))
			}
		}
	}
}
