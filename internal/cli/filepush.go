package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) filePushCmd() *cobra.Command {
	c := &cobra.Command{Use: "push <file>... [<remote>:]<instance>/<path>",
		Short: "Copy files into an instance", Args: cobra.MinimumNArgs(2),
		Long: "Copy files into an instance; \"-\" is standard input. A path that ends in a slash is a directory, which the " +
			"files are put into. New files get the owner and the permissions of the files here, unless flags say otherwise; " +
			"files that are there keep theirs, unless flags say otherwise."}
	var flags fileFlags
	flags.add(c)
	recursive := c.Flags().BoolP("recursive", "r", false, "copy directories with all that is in them")
	c.RunE = func(c *cobra.Command, args []string) error {
		spec, err := flags.spec(c)
		if err != nil {
			return err
		}
		sources, word := args[:len(args)-1], args[len(args)-1]
		to, err := a.fileAt(word)
		if err != nil {
			return err
		}
		if len(sources) > 1 && !to.isDir && !*recursive {
			return usageError{fmt.Errorf("several files can be copied into a directory only; write %q if it is one", word+"/")}
		}
		p := sender{app: a, spec: spec, recursive: *recursive}
		for _, s := range sources {
			if err := p.check(s); err != nil {
				return err
			}
		}
		if flags.parents || *recursive || len(sources) > 1 {
			if to, err = to.pin(c.Context()); err != nil {
				return err
			}
		}
		if flags.parents {
			dir := to
			if !to.isDir && !*recursive {
				dir.path = path.Dir(to.path)
			}
			if err := dir.mkdirs(c.Context(), client.FileSpec{UID: spec.UID, GID: spec.GID}); err != nil {
				return err
			}
		}
		return each(sources, func(source string) error { return p.send(c.Context(), source, to) })
	}
	return c
}

// A sender copies files into an instance.
type sender struct {
	app       *app
	spec      client.FileSpec // what the flags say
	recursive bool
}

// check says what is wrong with a source before anything is sent.
func (p sender) check(source string) error {
	if source == "-" {
		return nil
	}
	fi, err := os.Stat(source)
	if err != nil {
		return fileError(err)
	}
	if fi.IsDir() && !p.recursive {
		return kiln.Errorf(kiln.Invalid, "%s is a directory; copy it with --recursive", source)
	}
	return nil
}

func (p sender) send(ctx context.Context, source string, to filePlace) error {
	switch {
	case source == "-":
		if to.isDir {
			return usageError{fmt.Errorf("standard input has no name; write which file %s%s it becomes", to.Name, to.path)}
		}
		wrap, done := p.app.progress(fmt.Sprintf("Pushing to %s", to), -1)
		defer done()
		spec := p.spec
		spec.Body = wrap(p.app.In)
		return to.explain(ctx, to.PutFile(ctx, to.Name, to.path, spec))
	case p.recursive && isDirectory(source):
		return p.sendTree(ctx, source, to)
	case to.isDir || p.recursive:
		to = to.join(filepath.Base(source))
	}
	fi, err := os.Stat(source)
	if err != nil {
		return err
	}
	return p.sendFile(ctx, source, fi, to, true)
}

// attributes is what a local file becomes.
func (p sender) attributes(fi fs.FileInfo) client.FileSpec {
	spec := p.spec
	if spec.Mode == nil {
		mode := uint32(fi.Mode().Perm())
		for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
			if fi.Mode()&flag != 0 {
				mode |= bit
			}
		}
		spec.Mode = &mode
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		if spec.UID == nil {
			spec.UID = new(int64(st.Uid))
		}
		if spec.GID == nil {
			spec.GID = new(int64(st.Gid))
		}
	}
	return spec
}

// sendFile copies one file. A device or pipe is read to its end, as cat(1) does.
func (p sender) sendFile(ctx context.Context, source string, fi fs.FileInfo, to filePlace, tell bool) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	spec := p.attributes(fi)
	spec.Body, spec.Size = f, fi.Size()
	if tell {
		wrap, done := p.app.progress(fmt.Sprintf("Pushing %s to %s", source, to), fi.Size())
		defer done()
		spec.Body = wrap(f)
	}
	return to.explain(ctx, to.PutFile(ctx, to.Name, to.path, spec))
}

// atOnce is how many files of a directory are sent at once: what each takes is mostly
// waiting for the other end.
const atOnce = 4

// sendTree copies a directory with all that is in it.
func (p sender) sendTree(ctx context.Context, source string, to filePlace) error {
	source = filepath.Clean(source)
	base := filepath.Base(source)
	if absolute, err := filepath.Abs(source); err == nil {
		base = filepath.Base(absolute) // of "." as well
	}
	to = to.join(base)
	_, done := p.app.progress(fmt.Sprintf("Pushing %s to %s", source, to), -1)
	defer done()
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(atOnce)
	err := filepath.WalkDir(source, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		target := to.join(rest)
		spec := p.attributes(fi)
		switch {
		case d.IsDir():
			spec.Type = client.Directory
			return target.explain(ctx, target.PutFile(ctx, target.Name, target.path, spec))
		case fi.Mode().IsRegular():
			files.Go(func() error { return p.sendFile(ctx, name, fi, target, false) })
		case fi.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			spec.Type, spec.Body = client.Symlink, strings.NewReader(link)
			return target.explain(ctx, target.PutFile(ctx, target.Name, target.path, spec))
		default:
			p.app.remark("%s is left out: it is a device, a pipe or a socket", name)
		}
		return nil
	})
	if ferr := files.Wait(); ferr != nil {
		return ferr // which the walk ended for
	}
	return err
}
