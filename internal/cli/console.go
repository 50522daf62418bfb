package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) consoleCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "console [<remote>:]<instance>",
		Short: "Attach to the console of an instance",
		Long: "Attach to the console of an instance: what its init writes, and its login prompt, where it has one (press " +
			"return to see it). ctrl-a q detaches, as does the end of the input; ctrl-a twice types ctrl-a. What was " +
			"written before is in the log, which is kept up to 2 MB: --show-log.",
		Args: cobra.ExactArgs(1),
	}
	show := c.Flags().Bool("show-log", false, "show the log of the console")
	force := c.Flags().Bool("force", false, "take the console over from whoever is attached")
	kind := choiceFlag(c, "type", "t", "console", "type of the console", "console", "vga")
	c.RunE = func(c *cobra.Command, args []string) error {
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		switch {
		case *kind == "vga":
			return kiln.Errorf(kiln.Unsupported, "instance %q is a container and has no graphical console; leave out "+
				"--type=vga", i.Name)
		case *show:
			return a.log(c.Context(), i.at, instancePath(i.Name)+"/console")
		}
		return a.attach(c.Context(), i.at, api.InstanceConsolePost{Type: *kind, Force: *force})
	}
	return c
}

// consoleFlag adds --console to a command that starts something; "" is said without it.
func consoleFlag(c *cobra.Command) *string {
	kind := choiceFlag(c, "console", "", "", "then attach to the console, of the type", "console")
	c.Flags().Lookup("console").NoOptDefVal = "console"
	return kind
}

// attach connects the user's terminal with the console of an instance.
func (a *app) attach(ctx context.Context, at place.Place, post api.InstanceConsolePost) error {
	in, ok := a.In.(*os.File)
	ok = ok && terminal(in)
	if ok {
		if w, h, err := term.GetSize(int(in.Fd())); err == nil {
			post.Width, post.Height = w, h
		}
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer close(resized)
	defer signal.Stop(resized)
	restore := func() {}
	defer func() { restore() }()
	keys := &keys{chunks: make(chan []byte, keysAhead)}
	x := client.ExecIO{Stdin: keys, Stdout: a.Out}
	x.Control = func(control client.Control) { // once it is attached
		a.remark("To detach from the console, press: <ctrl>+a q")
		if ok {
			if old, err := term.MakeRaw(int(in.Fd())); err == nil {
				restore = func() { _ = term.Restore(int(in.Fd()), old) }
			}
		}
		go keys.take(a.In, control.Detach)
		go func() {
			for range resized {
				if w, h, err := term.GetSize(int(in.Fd())); ok && err == nil {
					_ = control.Resize(strconv.Itoa(w), strconv.Itoa(h))
				}
			}
		}()
	}
	return at.Console(ctx, at.Name, post, x)
}

// keys is what a user types, but for the way to detach. It is read ahead, so that one
// can detach from a console that takes nothing.
type keys struct {
	chunks chan []byte
	rest   []byte
}

const (
	ctrlA     = 0x01
	keysAhead = 256 // chunks
)

// take reads what is typed until its end, or until ctrl-a q, which detaches at once.
func (k *keys) take(in io.Reader, detach func()) {
	defer close(k.chunks)
	escaped := false
	for {
		b := make([]byte, 4096)
		n, err := in.Read(b)
		text, over := typed(b[:n], &escaped)
		if over {
			detach()
			return
		}
		if len(text) > 0 {
			k.chunks <- text
		}
		if err != nil {
			return
		}
	}
}

// typed takes ctrl-a out of what was typed: q after it detaches, another one is one,
// and what else follows stays as it is. escaped says that the last byte was one.
func typed(b []byte, escaped *bool) (text []byte, over bool) {
	for _, c := range b {
		switch {
		case *escaped && c == 'q':
			return nil, true
		case *escaped && c != ctrlA:
			text = append(text, ctrlA, c)
			*escaped = false
		case c == ctrlA && !*escaped:
			*escaped = true
		default:
			text = append(text, c)
			*escaped = false
		}
	}
	return text, false
}

// Read implements io.Reader.
func (k *keys) Read(b []byte) (int, error) {
	if len(k.rest) == 0 {
		chunk, ok := <-k.chunks
		if !ok {
			return 0, io.EOF
		}
		k.rest = chunk
	}
	n := copy(b, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}
