package cli

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) execCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "exec [<remote>:]<instance> [flags] [--] <command> [<argument>...]", Short: "Run a command in an instance",
		Long: "Run a command in an instance. The exit code is the command's: 127 when it isn't found, 126 when it can't " +
			"be run, 128 plus the signal that ended it.",
		Args: cobra.MinimumNArgs(2),
	}
	f := c.Flags()
	f.SetInterspersed(true)
	env := f.StringArray("env", nil, "environment variable NAME=value (repeatable)")
	user := f.String("user", "", "user to run as: an id, or a name that the instance knows")
	group := f.String("group", "", "group to run as: an id, or a name that the instance knows")
	cwd := f.String("cwd", "", "directory to run in")
	mode := choiceFlag(c, "mode", "", "auto", "whether the command gets a terminal", "auto", "interactive",
		"non-interactive")
	noStdin := f.BoolP("disable-stdin", "n", false, "give the command no input")
	yes := f.BoolP("force-interactive", "t", false, "give the command a terminal")
	no := f.BoolP("force-noninteractive", "T", false, "give the command no terminal")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		variables, err := pairs(*env)
		if err != nil {
			return err
		}
		tty := terminal(a.In) && terminal(a.Out)
		switch {
		case *yes && *no:
			return usageError{fmt.Errorf("-t and -T can't both be")}
		case *yes || *mode == "interactive":
			tty = true
		case *no || *mode == "non-interactive":
			tty = false
		}
		post := api.InstanceExecPost{Command: args[1:], Environment: variables, Cwd: *cwd,
			Interactive: tty}
		if err := setUser(c.Context(), at, &post, *user, *group); err != nil {
			return a.suggest(c.Context(), at, err)
		}
		if _, ok := variables["TERM"]; !ok && tty && os.Getenv("TERM") != "" {
			variables["TERM"] = os.Getenv("TERM")
		}
		x := client.ExecIO{Stdin: a.In, Stdout: a.Out, Stderr: a.Err}
		if *noStdin {
			x.Stdin = nil
		}
		restore, err := a.raw(&post, &x)
		if err != nil {
			return err
		}
		code, err := at.Exec(c.Context(), at.Name, post, x)
		restore()
		if err == nil && code != 0 {
			return exitCode(code)
		}
		return a.suggest(c.Context(), at, err)
	}
	return c
}

// raw prepares the user's terminal for a command with one, and sees to it that
// signals and the size of the window reach the command.
func (a *app) raw(post *api.InstanceExecPost, x *client.ExecIO) (restore func(), err error) {
	restore = func() {}
	signals := []os.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT}
	in, ok := a.In.(*os.File)
	if post.Interactive && ok && terminal(in) {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return nil, err
		}
		restore = func() { _ = term.Restore(int(in.Fd()), old) }
		if w, h, err := term.GetSize(int(in.Fd())); err == nil {
			post.Width, post.Height = w, h
		}
		signals = append(signals, unix.SIGWINCH)
	}
	c := make(chan os.Signal, 16)
	signal.Notify(c, signals...)
	x.Control = func(control client.Control) {
		go func() {
			for s := range c {
				if s == unix.SIGWINCH {
					if w, h, err := term.GetSize(int(in.Fd())); err == nil {
						_ = control.Resize(strconv.Itoa(w), strconv.Itoa(h))
					}
					continue
				}
				if n, ok := s.(unix.Signal); ok {
					_ = control.Signal(int(n))
				}
			}
		}()
	}
	return restore, nil
}

// execArgs lets everything after the instance's name be the command's, as lxc
// does: "exec c1 ls -l" needs no "--".
func execArgs(args []string) []string {
	at := -1
	for i, w := range args {
		if w == "exec" {
			at = i
			break
		}
		if !strings.HasPrefix(w, "-") {
			return args
		}
	}
	if at < 0 {
		return args
	}
	seenName := false
	for i := at + 1; i < len(args); i++ {
		w := args[i]
		switch {
		case w == "--":
			return args
		case strings.HasPrefix(w, "-") && !strings.Contains(w, "=") && takesValue(w):
			i++
		case strings.HasPrefix(w, "-"):
		case !seenName:
			seenName = true
		default: // the command's first word
			out := append([]string{}, args[:i]...)
			return append(append(out, "--"), args[i:]...)
		}
	}
	return args
}

func takesValue(flag string) bool {
	switch flag {
	case "--env", "--user", "--group", "--cwd", "--mode", "--project":
		return true
	}
	return false
}
