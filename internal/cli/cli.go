// Package cli turns words on a command line into calls of the API, one file for
// each noun. It doesn't know how the daemon does anything.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/place"
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Deps are what the command line needs of the rest of the program.
type Deps struct {
	Daemon  func(ctx context.Context, o DaemonOptions) error
	Version string
	Stall   time.Duration // how long servers may keep it waiting; 0: as long as usual
}

// DaemonOptions are the flags of kiln daemon.
type DaemonOptions struct {
	Dir    string
	Listen string
	Debug  bool
}

// app is one invocation.
type app struct {
	Streams
	*place.Resolver // what words mean
	deps            Deps
	quiet, debug    bool
	lines           *bufio.Reader // of what the user types
}

// exitCode ends the program with a code of its own, without a word.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// usageError is a mistake in the words of the command line.
type usageError struct{ error }

// Main runs a command line and gives its exit code.
func Main(ctx context.Context, args []string, io Streams, deps Deps) int {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	a := &app{Streams: io, deps: deps, Resolver: &place.Resolver{Version: deps.Version, Stall: deps.Stall}}
	a.Warn = func(text string) { a.remark("%s", text) }
	root := a.root()
	root.SetArgs(execArgs(args))
	root.SetIn(io.In)
	root.SetOut(io.Out)
	root.SetErr(io.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(io.Err, "kiln: %s\n", line)
	}
	return exit(err)
}

// exit is the exit code of an error.
func exit(err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	switch kiln.KindOf(err) {
	case kiln.NotFound:
		return 3
	case kiln.Conflict:
		return 4
	case kiln.Denied:
		return 5
	case kiln.Network:
		return 6
	case kiln.Integrity:
		return 7
	case kiln.NoSpace:
		return 8
	case kiln.Timeout, kiln.Cancelled:
		return 9
	}
	return 1
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kiln",
		Short: "Get, keep, share and run system images",
		Long: "kiln keeps images of Linux systems and runs system containers made from them.\n\nTry:\n  kiln " +
			"image import debian.tar.zst --alias debian\n  kiln launch debian c1\n  kiln exec c1 -- bash",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.deps.Version,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.Project, "project", os.Getenv("KILN_PROJECT"), "project to use")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no remarks")
	f.BoolVar(&a.debug, "debug", false, "show what the daemon logs for debugging")
	f.BoolP("verbose", "v", false, "show more")
	f.BoolVar(&a.ForceLocal, "force-local", false, "use the local daemon, whatever the default remote is")
	root.AddCommand(
		a.daemonCmd(), a.shutdownCmd(), a.waitreadyCmd(), a.versionCmd(),
		a.imageCmd(), a.createCmd("init"), a.createCmd("launch"), a.listCmd(), a.infoCmd(),
		a.actionCmd("start", "start"), a.actionCmd("stop", "stop"), a.actionCmd("restart", "restart"),
		a.actionCmd("pause", "freeze"), a.actionCmd("resume", "unfreeze"),
		a.deleteCmd(), a.renameCmd(), a.moveCmd(), a.copyCmd(), a.execCmd(), a.consoleCmd(), a.snapshotCmd(), a.restoreCmd(),
		a.rebuildCmd(), a.publishCmd(),
		a.configCmd(), a.profileCmd(), a.operationCmd(), a.monitorCmd(), a.queryCmd(), a.remoteCmd(), a.mirrorCmd(),
	)
	prepare(root)
	return root
}

// prepare makes every command answer mistakes in the same way: with the exit code
// of usage errors, and a suggestion.
func prepare(c *cobra.Command) {
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		hint := ""
		if _, name, ok := strings.Cut(err.Error(), "--"); ok {
			var names []string
			c.Flags().VisitAll(func(f *flag) { names = append(names, f.Name) })
			hint = kiln.DidYouMean(strings.Fields(name)[0], names)
		}
		return usageError{fmt.Errorf("%w%s; see: %s --help", err, hint, c.CommandPath())}
	})
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			var names []string
			for _, sub := range c.Commands() {
				names = append(append(names, sub.Name()), sub.Aliases...)
			}
			return usageError{fmt.Errorf("unknown command %q for %q%s; see: %s --help", args[0], c.CommandPath(),
				kiln.DidYouMean(args[0], names), c.CommandPath())}
		}
		c.Args = cobra.ArbitraryArgs
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w; usage: %s", err, c.UseLine())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		prepare(sub)
	}
}

// say tells a person what happened.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Out, format+"\n", args...)
	}
}

// remark tells a person something that isn't an answer.
func (a *app) remark(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Err, format+"\n", args...)
	}
}

// terminal reports whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// each does something with each of several things: all are tried.
func each(names []string, f func(string) error) error {
	var errs []error
	for _, n := range names {
		errs = append(errs, f(n))
	}
	return errors.Join(errs...)
}

// pairs reads words of the form key=value.
func pairs(words []string) (map[string]string, error) {
	m := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("%q is not of the form key=value", w)}
		}
		m[k] = v
	}
	return m, nil
}
