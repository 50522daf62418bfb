package client

import (
	"context"
	"net/http"
	"sync"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// Detach lets go of a console at once, whatever is under way.
func (c Control) Detach() { _ = c.conn.Close(websocket.StatusNormalClosure, "detached") }

// Console attaches to the console of an instance. It returns when the input ends, by
// Control.Detach, or when the instance stops. Errors: NotFound, Conflict when the
// instance doesn't run, somebody else is attached, or takes the console over.
func (c *Client) Console(ctx context.Context, instance string, post api.InstanceConsolePost, x ExecIO) error {
	_, op, err := c.Do(ctx, Request{Method: http.MethodPost, Path: Path("/1.0/instances", instance) + "/console",
		Body: post}, nil)
	if err != nil {
		return err
	}
	if op == nil {
		return kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var out sync.WaitGroup
	if err := c.connectExec(ctx, op, true, x, &out); err != nil {
		return err
	}
	if _, err := c.Wait(ctx, op.ID); err != nil {
		return err
	}
	out.Wait()
	return nil
}
