package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) daemonCmd() *cobra.Command {
	c := &cobra.Command{Use: "daemon", Short: "Run the daemon in the foreground", Args: cobra.NoArgs,
		Long: "Run the daemon in the foreground. It makes everything it needs on its first start. On SIGTERM and SIGINT " +
			"it ends and the instances keep running; \"kiln shutdown\" stops them too."}
	o := DaemonOptions{}
	c.Flags().StringVar(&o.Dir, "dir", client.Dir(), "where everything is kept")
	c.Flags().StringVar(&o.Listen, "listen", "", "address to listen on besides the socket")
	form := choiceFlag(c, "log-format", "", "text", "how the log is written to standard error", "text", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		o.Debug, o.JSON = a.debug, *form == "json"
		return a.deps.Daemon(c.Context(), o)
	}
	return c
}

func (a *app) shutdownCmd() *cobra.Command {
	c := &cobra.Command{Use: "shutdown", Short: "Stop all instances and the daemon of this host", Args: cobra.NoArgs,
		Long: "Stop all instances and the daemon of this host, whichever remote is the default one: who is asked at a " +
			"terminal, where that is another server, has to confirm it."}
	timeout := c.Flags().Int("timeout", 0, "seconds to wait; 0: as long as it takes")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx := c.Context()
		if err := checkTimeout(*timeout); err != nil {
			return err
		}
		if *timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*timeout)*time.Second, kiln.Errorf(kiln.Timeout,
				"instances, or the daemon, did not stop within %d s, and those that run go on; see which: kiln list; try "+
					"again: kiln shutdown", *timeout))
			defer cancel()
		}
		var server api.Server
		if _, err := a.Local().Get(ctx, "/1.0", nil, &server); err != nil {
			return err
		}
		if terminal(a.In) { // a service manager's unit has no home that remotes could be in
			r, err := a.Config()
			if err != nil {
				return err
			}
			if r.Default != "" && r.Default != "local" {
				if yes, err := a.confirm(fmt.Sprintf("Stop the daemon of this host, not %s, which is the default remote",
					r.Default)); !yes {
					return err
				}
			}
		}
		// Asking whether it still answers would start it again where systemd holds
		// the socket.
		daemon, err := unix.PidfdOpen(server.Environment.ServerPID, 0)
		if err != nil {
			return fmt.Errorf("watch the daemon, process %d: %w", server.Environment.ServerPID, err)
		}
		defer unix.Close(daemon)
		if err := a.Local().Change(ctx, http.MethodPost, "/1.0/kiln/shutdown", struct{}{}, ""); err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		return waitExit(ctx, daemon)
	}
	return c
}

// mostTimeout is how many seconds a command can be told to wait.
const mostTimeout = 24 * 60 * 60

// checkTimeout refuses seconds that nobody can mean.
func checkTimeout(seconds int) error {
	if seconds < 0 || seconds > mostTimeout {
		return usageError{fmt.Errorf("--timeout %d is not a number of seconds from 0 to %d", seconds, mostTimeout)}
	}
	return nil
}

// waitExit waits until a process has ended.
func waitExit(ctx context.Context, pidfd int) error {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return context.Cause(ctx)
}

func (a *app) waitreadyCmd() *cobra.Command {
	c := &cobra.Command{Use: "waitready", Short: "Wait until the daemon answers", Args: cobra.NoArgs}
	timeout := c.Flags().Int("timeout", 60, "seconds to wait; 0: for ever")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkTimeout(*timeout); err != nil {
			return err
		}
		ctx := c.Context()
		if *timeout > 0 { // also for one that takes the question and doesn't answer
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(*timeout)*time.Second)
			defer cancel()
		}
		start, told, last := time.Now(), false, error(nil)
		for {
			_, err := a.Local().Get(ctx, "/1.0", nil, nil)
			if err == nil {
				return nil
			}
			if last == nil || ctx.Err() == nil { // else it is that time is up
				last = err
			}
			if !told && time.Since(start) > linePatience {
				told = true
				a.remark("Waiting for a daemon that answers at %s", client.Socket())
			}
			select {
			case <-ctx.Done():
				if c.Context().Err() != nil {
					return c.Context().Err()
				}
				return kiln.Errorf(kiln.Timeout, "the daemon isn't ready after %d s: %w", *timeout, last)
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
		at, err := a.server(args)
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
