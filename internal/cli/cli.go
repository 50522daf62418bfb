// Package cli turns words on a command line into calls of the API, one file for
// each noun. It doesn't know how the daemon does anything.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

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
	Daemon func(ctx context.Context, o DaemonOptions) error
	// RestoreDatabase and Recover work on the directory of a daemon that doesn't run.
	RestoreDatabase func(ctx context.Context, dir, file string) (used string, err error)
	Recover         func(ctx context.Context, dir string) (Recovery, error)
	// Lost and DropLost look into such a directory; one may run there.
	Lost     func(ctx context.Context, dir string) ([]Lost, error)
	DropLost func(ctx context.Context, dir, name string) (dropped string, err error)

	Version string
	Stall   time.Duration // how long servers may keep it waiting; 0: as long as usual
}

// DaemonOptions are the flags of kiln daemon.
type DaemonOptions struct {
	Dir    string
	Listen string
	Debug  bool
	JSON   bool // the log
}

// app is one invocation.
type app struct {
	Streams
	*place.Resolver // what words mean
	deps            Deps
	quiet, debug    bool
	lines           *bufio.Reader   // of what the user types
	interrupted     <-chan struct{} // closed when they pressed ctrl-c
}

// exitCode ends the program with a code of its own, without a word.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// interruptedPrompt is how a question ends that was answered by ctrl-c: as a program that
// is killed by SIGINT ends, for the shell.
const interruptedPrompt exitCode = 130

// usageError is a mistake in the words of the command line.
type usageError struct{ error }

// Main runs a command line and gives its exit code.
func Main(ctx context.Context, args []string, io Streams, deps Deps) int {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	a := &app{Streams: io, deps: deps, interrupted: ctx.Done(),
		Resolver: &place.Resolver{Version: deps.Version, Stall: deps.Stall}}
	a.Warn = func(text string) { a.remark("%s", text) }
	root := a.root()
	a.Retell = hints{root}.retell
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
	if ctx.Err() != nil && kiln.KindOf(err) != kiln.Cancelled || errors.Is(err, context.Canceled) {
		err = kiln.Errorf(kiln.Cancelled, "interrupted") // whatever broke by it
	}
	err = a.Explain(err)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(io.Err, "kiln: %s\n", printable(line))
	}
	return exit(err)
}

// An ExitCode is how commands end.
type ExitCode struct {
	Code    int
	Meaning string
	kinds   []kiln.Kind
}

// ExitCodes are all but those that the command in an instance ends with.
func ExitCodes() []ExitCode {
	return []ExitCode{
		{0, "success", nil},
		{1, "general error", nil},
		{2, "mistake in the command line, or invalid value", []kiln.Kind{kiln.Invalid, kiln.Ambiguous}},
		{3, "not found", []kiln.Kind{kiln.NotFound}},
		{4, "conflict: it exists, is in use, or was changed meanwhile", []kiln.Kind{kiln.Conflict, kiln.Stale}},
		{5, "not trusted, or a local file that may not be read", []kiln.Kind{kiln.Denied}},
		{6, "network, or a server that is too busy", []kiln.Kind{kiln.Network, kiln.Busy}},
		{7, "integrity: a hash or a signature doesn't match", []kiln.Kind{kiln.Integrity}},
		{8, "no space left", []kiln.Kind{kiln.NoSpace}},
		{9, "timeout, or cancelled", []kiln.Kind{kiln.Timeout, kiln.Cancelled}},
		{int(interruptedPrompt), "a question was answered by ctrl-c", nil},
	}
}

// exit is the exit code of an error.
func exit(err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	kind := kiln.KindOf(err)
	if kind == kiln.Internal && errors.Is(err, fs.ErrPermission) { // of a file here: what a server refuses has a Kind
		return 5
	}
	for _, e := range ExitCodes() {
		if slices.Contains(e.kinds, kind) { // whoever noticed it, here or at the server
			return e.Code
		}
	}
	return 1
}

// terminal reports whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// each does something with each of several things: all are tried, once if they are named twice.
func each(names []string, f func(string) error) error {
	var errs []error
	for at, n := range names {
		if !slices.Contains(names[:at], n) {
			errs = append(errs, f(n))
		}
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
