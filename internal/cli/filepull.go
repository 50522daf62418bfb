package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) filePullCmd() *cobra.Command {
	c := &cobra.Command{Use: "pull [<remote>:]<instance>/<path>... <file>",
		Short: "Copy files out of an instance", Args: cobra.MinimumNArgs(2),
		Long: "Copy files out of an instance; \"-\" is standard output. Files become the caller's, with the permissions " +
			"that they have in the instance."}
	parents := c.Flags().BoolP("create-dirs", "p", false, "create the directories that are missing")
	recursive := c.Flags().BoolP("recursive", "r", false, "copy directories with all that is in them")
	c.RunE = func(c *cobra.Command, args []string) error {
		words, target := args[:len(args)-1], args[len(args)-1]
		into := isDirectory(target) || strings.HasSuffix(target, "/") || *recursive && target != "-"
		if len(words) > 1 && !into && target != "-" {
			return usageError{fmt.Errorf("several files can be copied into a directory only, and %q is none", target)}
		}
		if *recursive && target == "-" {
			return usageError{errors.New("a directory can't be written to standard output; use: kiln exec <instance> -- tar -c")}
		}
		dir := target
		if !into {
			dir = filepath.Dir(target)
		}
		if *parents || *recursive {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		return each(words, func(word string) error {
			from, err := a.fileAt(word)
			if err == nil && *recursive {
				from, err = from.pin(c.Context())
			}
			if err != nil {
				return err
			}
			return a.pull(c.Context(), from, target, into, *recursive)
		})
	}
	return c
}

// pull copies one file of an instance, or a directory, to a file here, or into a directory.
func (a *app) pull(ctx context.Context, from filePlace, target string, into, recursive bool) error {
	f, err := from.follow(ctx)
	if err != nil {
		return err
	}
	if f.Body == nil && !recursive {
		return kiln.Errorf(kiln.Invalid, "%s is a directory; copy it with --recursive", from)
	}
	if target == "-" {
		defer f.Body.Close()
		w := a.data()
		defer flush(w)
		_, err := io.Copy(w, f.Body)
		return a.cutOff(from, err)
	}
	name := path.Base(from.path)
	if name == "/" {
		name = from.Name
	}
	if !into {
		target, name = filepath.Split(target)
	}
	// What the instance sends can't lead out of the directory: neither a name nor a
	// symbolic link that came before.
	dir, err := os.OpenRoot(orElse(target, "."))
	if err != nil {
		if f.Body != nil {
			f.Body.Close()
		}
		return err
	}
	defer dir.Close()
	wrap, done := a.progress(fmt.Sprintf("Pulling %s", from), f.Size)
	defer done()
	if f.Body != nil {
		f.Body = struct {
			io.Reader
			io.Closer
		}{wrap(f.Body), f.Body}
	}
	return a.keep(ctx, dir, name, from, f)
}

// keep makes a file of the instance one here.
func (a *app) keep(ctx context.Context, dir *os.Root, name string, from filePlace, f *client.File) error {
	switch f.Type {
	case client.RegularFile:
		defer f.Body.Close()
		mode := fs.FileMode(f.Mode & 0o777)
		out, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, f.Body)
		if fi, serr := out.Stat(); err == nil && serr == nil && fi.Mode().IsRegular() {
			err = out.Chmod(mode)
		}
		return a.cutOff(from, errors.Join(err, out.Close()))
	case client.Symlink:
		if now, err := dir.Lstat(name); err == nil && now.Mode()&fs.ModeSymlink != 0 {
			if err := dir.Remove(name); err != nil {
				return err
			}
		}
		return dir.Symlink(f.Target, name)
	}
	if err := dir.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	for _, n := range f.Names {
		inner := from.join(n)
		got, err := inner.OpenFile(ctx, inner.Name, inner.path)
		if errors.Is(err, kiln.Invalid) { // as a device is
			a.remark("%s is left out: %v", inner, err)
			continue
		}
		if err != nil {
			return inner.explain(ctx, err)
		}
		if err := a.keep(ctx, sub, n, inner, got); err != nil {
			return err
		}
	}
	return dir.Chmod(name, fs.FileMode(f.Mode&0o777))
}

// cutOff says of which file an answer broke off.
func (a *app) cutOff(from filePlace, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return kiln.Errorf(kiln.Network, "%s broke off before its end; what came is incomplete", from)
	}
	return err
}
