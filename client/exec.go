package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// ExecIO is what a command in an instance is connected to. Control gets the
// functions that reach the command, once it is about to run.
type ExecIO struct {
	Stdin          io.Reader // nil: nothing
	Stdout, Stderr io.Writer // Stderr is not used with a terminal
	Control        func(Control)
}

// Control reaches a command that runs.
type Control struct {
	ctx  context.Context
	conn *websocket.Conn
}

// Resize tells the command the size of the terminal, in characters.
func (c Control) Resize(width, height string) error {
	return c.send(api.InstanceExecControl{Command: "window-resize", Args: map[string]string{"width": width,
		"height": height}})
}

// Signal sends the command a signal.
func (c Control) Signal(n int) error {
	return c.send(api.InstanceExecControl{Command: "signal", Signal: n})
}

func (c Control) send(m api.InstanceExecControl) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return c.conn.Write(c.ctx, websocket.MessageText, b)
}

// Exec runs a command in an instance and gives its exit code.
// Errors: NotFound, Conflict when the instance doesn't run.
func (c *Client) Exec(ctx context.Context, instance string, post api.InstanceExecPost, x ExecIO) (int, error) {
	post.WaitForWS = true
	_, op, err := c.Do(ctx, Request{Method: http.MethodPost, Path: Path("/1.0/instances", instance) + "/exec", Body: post},
		nil)
	if err != nil {
		return 0, err
	}
	if op == nil {
		return 0, kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var out sync.WaitGroup
	if err := c.connectExec(ctx, op, post.Interactive, x, &out); err != nil {
		return 0, err
	}
	done, err := c.Wait(ctx, op.ID)
	if err != nil {
		return 0, err
	}
	out.Wait()
	code, ok := done.Metadata["return"].(float64)
	if !ok {
		return 0, kiln.Errorf(kiln.Network, "the server didn't tell the exit code")
	}
	return int(code), nil
}

// connectExec opens the websockets of a command and starts copying. out is done
// when all output has come.
func (c *Client) connectExec(ctx context.Context, op *api.Operation, tty bool, x ExecIO, out *sync.WaitGroup) error {
	fds, _ := op.Metadata["fds"].(map[string]any)
	open := func(fd string) (*websocket.Conn, error) {
		secret, _ := fds[fd].(string)
		return c.dial(ctx, "/1.0/operations/"+op.ID+"/websocket", url.Values{"secret": {secret}})
	}
	control, err := open("control")
	if err != nil {
		return err
	}
	control.CloseRead(ctx)
	in, err := open("0")
	if err != nil {
		return err
	}
	if tty {
		out.Go(func() { receive(ctx, in, x.Stdout) })
	} else {
		in.CloseRead(ctx)
		for fd, w := range map[string]io.Writer{"1": x.Stdout, "2": x.Stderr} {
			conn, err := open(fd)
			if err != nil {
				return err
			}
			out.Go(func() { receive(ctx, conn, w) })
		}
	}
	go send(ctx, in, x.Stdin)
	if x.Control != nil {
		x.Control(Control{ctx, control})
	}
	return nil
}

// receive copies a websocket to its end: an empty text message, or its closing.
func receive(ctx context.Context, conn *websocket.Conn, w io.Writer) {
	defer conn.CloseNow()
	for {
		kind, b, err := conn.Read(ctx)
		if err != nil || kind == websocket.MessageText && len(b) == 0 {
			return
		}
		if _, err := w.Write(b); err != nil {
			w = io.Discard
		}
	}
}

// send copies a reader to a websocket and tells its end.
func send(ctx context.Context, conn *websocket.Conn, r io.Reader) {
	buf := make([]byte, 32<<10)
	for r != nil {
		n, err := r.Read(buf)
		if n > 0 {
			if conn.Write(ctx, websocket.MessageBinary, buf[:n]) != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
	}
	_ = conn.Write(ctx, websocket.MessageText, nil)
}
