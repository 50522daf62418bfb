package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) daemonCmd() *cobra.Command {
	c := &cobra.Command{Use: "daemon", Short: "Run the daemon in the foreground", Args: cobra.NoArgs,
		Long: "Run the daemon in the foreground. It makes everything it needs on its first start. On SIGTERM and SIGINT " +
			"it ends and the instances keep running; \"kiln shutdown\" stops them too."}
	o := DaemonOptions{}
	c.Flags().StringVar(&o.Dir, "dir", client.Dir(), "where everything is kept")
	c.Flags().StringVar(&o.Listen, "listen", "", "address to listen on besides the socket")
	c.RunE = func(c *cobra.Command, _ []string) error {
		o.Debug = a.debug
		return a.deps.Daemon(c.Context(), o)
	}
	return c
}

func (a *app) shutdownCmd() *cobra.Command {
	c := &cobra.Command{Use: "shutdown", Short: "Stop all instances and the daemon", Args: cobra.NoArgs}
	timeout := c.Flags().Int("timeout", 0, "seconds to wait; 0: as long as it takes")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx := c.Context()
		if *timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(*timeout)*time.Second)
			defer cancel()
		}
		var server api.Server
		if _, err := a.Local().Get(ctx, "/1.0", nil, &server); err != nil {
			return err
		}
		// Asking whether it still answers would start it again where systemd holds
		// the socket.
		daemon, err := unix.PidfdOpen(server.Environment.ServerPID, 0)
		if err != nil {
			return fmt.Errorf("watch the daemon, process %d: %w", server.Environment.ServerPID, err)
		}
		defer unix.Close(daemon)
		if err := a.Local().Change(ctx, http.MethodPost, "/1.0/kiln/shutdown", struct{}{}, ""); err != nil {
			return err
		}
		return waitExit(ctx, daemon)
	}
	return c
}

// waitExit waits until a process has ended.
func waitExit(ctx context.Context, pidfd int) error {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

func (a *app) waitreadyCmd() *cobra.Command {
	c := &cobra.Command{Use: "waitready", Short: "Wait until the daemon answers", Args: cobra.NoArgs}
	timeout := c.Flags().Int("timeout", 0, "seconds to wait; 0: for ever")
	c.RunE = func(c *cobra.Command, _ []string) error {
		start := time.Now()
		for {
			_, err := a.Local().Get(c.Context(), "/1.0", nil, nil)
			if err == nil {
				return nil
			}
			if *timeout > 0 && time.Since(start) > time.Duration(*timeout)*time.Second {
				return kiln.Errorf(kiln.Timeout, "the daemon isn't ready after %d s: %w", *timeout, err)
			}
			select {
			case <-c.Context().Done():
				return c.Context().Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return c
}

// versions are those of client and server.
type versions struct {
	Client string `json:"client" yaml:"client"`
	Server string `json:"server" yaml:"server"` // "": it can't be reached
}

func (a *app) versionCmd() *cobra.Command {
	c := &cobra.Command{Use: "version [<remote>:]", Short: "Show the versions of client and server",
		Args: cobra.MaximumNArgs(1)}
	form := objectFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, _, err := a.Server(args)
		if err != nil {
			return err
		}
		v := versions{Client: a.deps.Version}
		var s api.Server
		if _, err := at.Get(c.Context(), "/1.0", nil, &s); err == nil && s.Environment != nil {
			v.Server = s.Environment.ServerVersion
		}
		if done, err := a.object(*form, v); done {
			return err
		}
		a.print("Client version: %s\nServer version: %s", v.Client, orElse(v.Server, "unreachable"))
		return nil
	}
	return c
}

func (a *app) operationCmd() *cobra.Command {
	c := &cobra.Command{Use: "operation", Short: "Manage background operations"}
	list := &cobra.Command{Use: "list [<remote>:]", Aliases: []string{"ls"}, Short: "List operations",
		Args: cobra.MaximumNArgs(1)}
	form := formatFlag(list)
	list.RunE = func(c *cobra.Command, args []string) error {
		at, _, err := a.Server(args)
		if err != nil {
			return err
		}
		var byStatus map[string][]api.Operation
		if _, err := at.Get(c.Context(), "/1.0/operations", map[string][]string{"recursion": {"1"}}, &byStatus); err != nil {
			return err
		}
		var all []api.Operation
		for _, ops := range byStatus {
			all = append(all, ops...)
		}
		return show(a, *form, []column[api.Operation]{
			col('i', "ID", func(o api.Operation) string { return o.ID }),
			col('t', "TYPE", func(o api.Operation) string { return strings.ToUpper(o.Class) }),
			col('d', "DESCRIPTION", func(o api.Operation) string { return o.Description }),
			col('s', "STATUS", func(o api.Operation) string { return strings.ToUpper(o.Status) }),
			col('c', "CANCELABLE", func(o api.Operation) string { return strings.ToUpper(yesNo(o.MayCancel)) }),
			col('u', "CREATED", func(o api.Operation) string { return minute(o.CreatedAt) }),
		}, all)
	}
	path := func(word string) (place.Place, string, error) {
		at, err := a.At(word)
		return at, client.Path("/1.0/operations", at.Name), err
	}
	c.AddCommand(list,
		&cobra.Command{Use: "show <operation>", Short: "Show an operation as YAML", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, p, err := path(args[0])
				if err != nil {
					return err
				}
				var o api.Operation
				if _, err := at.Get(c.Context(), p, nil, &o); err != nil {
					return err
				}
				return a.yaml(o)
			}},
		&cobra.Command{Use: "cancel <operation>", Aliases: []string{"delete", "rm"}, Short: "Cancel an operation",
			Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
				at, p, err := path(args[0])
				if err != nil {
					return err
				}
				return at.Change(c.Context(), http.MethodDelete, p, nil, "")
			}},
		&cobra.Command{Use: "wait <operation>", Short: "Wait for an operation to finish", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, _, err := path(args[0])
				if err != nil {
					return err
				}
				_, err = at.Wait(c.Context(), at.Name)
				return err
			}},
	)
	return c
}

func (a *app) monitorCmd() *cobra.Command {
	c := &cobra.Command{Use: "monitor [<remote>:]", Short: "Show events as they happen", Args: cobra.MaximumNArgs(1)}
	types := c.Flags().StringArray("type", nil, "operation, lifecycle or logging (repeatable)")
	form := choiceFlag(c, "format", "f", "yaml", "", "yaml", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, _, err := a.Server(args)
		if err != nil {
			return err
		}
		err = at.Events(c.Context(), *types, func(e api.Event) error {
			if *form == "json" {
				return json.NewEncoder(a.Out).Encode(e)
			}
			var v any
			b, err := json.Marshal(e)
			if err := errors.Join(err, json.Unmarshal(b, &v)); err != nil {
				return err
			}
			if err := a.yaml(v); err != nil {
				return err
			}
			_, err = fmt.Fprint(a.Out, "\n\n")
			return err
		})
		if c.Context().Err() != nil {
			return nil
		}
		return err
	}
	return c
}

func (a *app) queryCmd() *cobra.Command {
	c := &cobra.Command{Use: "query [<remote>:]<path>", Short: "Send a raw API request",
		Args: cobra.ExactArgs(1)}
	method := c.Flags().StringP("request", "X", http.MethodGet, "method")
	data := c.Flags().StringP("data", "d", "", "JSON to send")
	wait := c.Flags().Bool("wait", false, "wait for the operation")
	raw := c.Flags().Bool("raw", false, "show the answer as it comes")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		path := at.Name
		if !strings.HasPrefix(path, "/") {
			return usageError{fmt.Errorf("%q is no path of the API; they begin with /1.0", args[0])}
		}
		r := client.Request{Method: *method, Path: path}
		if *data != "" {
			r.Body = json.RawMessage(*data)
		}
		if *raw {
			resp, err := at.Raw(c.Context(), r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(a.Out, resp.Body)
			return err
		}
		var out any
		_, op, err := at.Do(c.Context(), r, &out)
		if err != nil {
			return err
		}
		if op != nil {
			out = op
			if *wait && op.Class == "token" {
				a.remark("a token isn't waited for: it ends when somebody uses it")
			} else if *wait {
				if out, err = at.Wait(c.Context(), op.ID); err != nil {
					return err
				}
			}
		}
		e := json.NewEncoder(a.Out)
		e.SetIndent("", "\t")
		return e.Encode(out)
	}
	return c
}
