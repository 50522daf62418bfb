package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) fileCmd() *cobra.Command {
	c := &cobra.Command{Use: "file", Short: "Manage the files of an instance",
		Long: "Manage the files of an instance, whether it runs or not, with the rights of its root."}
	c.AddCommand(a.fileMountCmd(), a.filePushCmd(), a.filePullCmd(), a.fileEditCmd(), a.fileCreateCmd(),
		&cobra.Command{Use: "delete [<remote>:]<instance>/<path>...",
			Short: "Delete files of instances, and directories that are empty", Args: cobra.MinimumNArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				all, err := allThere(args, func(word string) (filePlace, error) {
					at, err := a.fileAt(word)
					if err == nil && len(args) > 1 {
						err = at.there(c.Context())
					}
					return at, err
				})
				if err != nil {
					return err
				}
				var errs []error
				for _, at := range all {
					errs = append(errs, at.explain(c.Context(), at.DeleteFile(c.Context(), at.Name, at.path)))
				}
				return errors.Join(errs...)
			}})
	return c
}

// A filePlace is a file of an instance.
type filePlace struct {
	place.Place
	app   *app
	path  string // from the root directory on, clean
	isDir bool   // it was written with a slash at its end
}

// fileAt finds the file that a word means: "srv:c1/etc/hosts".
func (a *app) fileAt(word string) (filePlace, error) {
	before, name, ok := strings.Cut(word, "/")
	if !ok || before == "" {
		return filePlace{}, usageError{fmt.Errorf("%q is no file of an instance; write <instance>/<path>, such as: "+
			"c1/etc/hosts", word)}
	}
	at, err := a.At(before)
	if err == nil && at.Name == "" {
		err = usageError{fmt.Errorf("%q names no instance; write <remote>:<instance>/<path>", word)}
	}
	return filePlace{at, a, path.Clean("/" + name), name == "" || strings.HasSuffix(name, "/")}, err
}

// pin has the place be in the instance that has its name now, for work of several requests:
// when another one gets the name meanwhile, they fail.
func (at filePlace) pin(ctx context.Context) (filePlace, error) {
	i := heldInstance{app: at.app, at: at.Place}
	err := i.read(ctx)
	at.Place = i.at
	return at, err
}

// there is NotFound if there is no such file. One that can't be read is there.
func (at filePlace) there(ctx context.Context) error {
	f, err := at.OpenFile(ctx, at.Name, at.path)
	if err == nil && f.Body != nil {
		err = f.Body.Close()
	}
	if !errors.Is(err, kiln.NotFound) {
		return nil
	}
	return at.explain(ctx, err)
}

// explain makes an error about a file one about the instance if that isn't there.
func (at filePlace) explain(ctx context.Context, err error) error {
	return at.app.suggest(ctx, at.Place, err)
}

// join is the place of something in a directory.
func (at filePlace) join(name string) filePlace {
	at.path, at.isDir = path.Join(at.path, name), false
	return at
}

// String is how messages call it.
func (at filePlace) String() string { return at.Name + at.path }

// mkdirs makes a directory and those above it that aren't there, the new ones as spec says.
func (at filePlace) mkdirs(ctx context.Context, spec client.FileSpec) error {
	spec.Type, spec.Body, spec.Modify = client.Directory, nil, nil
	err := at.PutFile(ctx, at.Name, at.path, spec)
	if !errors.Is(err, kiln.NotFound) || at.path == "/" {
		return at.explain(ctx, err)
	}
	above := at
	above.path = path.Dir(at.path)
	if err := above.mkdirs(ctx, spec); err != nil {
		return err
	}
	return at.explain(ctx, at.PutFile(ctx, at.Name, at.path, spec))
}

// fileFlags are what a command says of new files.
type fileFlags struct {
	uid, gid int64
	mode     string
	parents  bool
}

func (f *fileFlags) add(c *cobra.Command) {
	c.Flags().Int64Var(&f.uid, "uid", -1, "user id of the owner, in the instance")
	c.Flags().Int64Var(&f.gid, "gid", -1, "group id of the owner, in the instance")
	c.Flags().StringVar(&f.mode, "mode", "", "permissions, octal: 0644")
	c.Flags().BoolVarP(&f.parents, "create-dirs", "p", false, "create the directories that are missing")
}

// spec is what the flags say; what is given is changed of files that are there, too.
func (f *fileFlags) spec(c *cobra.Command) (client.FileSpec, error) {
	var s client.FileSpec
	for name, id := range map[string]*int64{"uid": &f.uid, "gid": &f.gid} {
		if c.Flags().Changed(name) && (*id < 0 || *id > 1<<32-2) {
			return s, usageError{fmt.Errorf("--%s %d is no id; it is a number from 0 to %d", name, *id, uint32(1<<32-2))}
		}
	}
	if f.uid >= 0 {
		s.UID, s.Modify = &f.uid, append(s.Modify, "uid")
	}
	if f.gid >= 0 {
		s.GID, s.Modify = &f.gid, append(s.Modify, "gid")
	}
	if f.mode != "" {
		n, err := strconv.ParseUint(f.mode, 8, 32)
		if err != nil || n > 0o7777 {
			return s, usageError{fmt.Errorf("--mode %q is not octal permissions, such as 0644", f.mode)}
		}
		s.Mode, s.Modify = new(uint32(n)), append(s.Modify, "mode")
	}
	return s, nil
}

func (a *app) fileCreateCmd() *cobra.Command {
	c := &cobra.Command{Use: "create [<remote>:]<instance>/<path> [<target>]",
		Short: "Create an empty file, a directory or a symbolic link in an instance", Args: cobra.RangeArgs(1, 2)}
	var flags fileFlags
	flags.add(c)
	kind := c.Flags().String("type", client.RegularFile, "file, directory or symlink")
	force := c.Flags().BoolP("force", "f", false, "empty a file that is there already")
	c.RunE = func(c *cobra.Command, args []string) error {
		spec, err := flags.spec(c)
		if err != nil {
			return err
		}
		at, err := a.fileAt(args[0])
		if err != nil {
			return err
		}
		if at.isDir && !c.Flags().Changed("type") {
			*kind = client.Directory
		}
		switch spec.Type = *kind; {
		case *kind != client.RegularFile && *kind != client.Directory && *kind != client.Symlink:
			return usageError{fmt.Errorf("--type %q is not one of file, directory, symlink", *kind)}
		case (*kind == client.Symlink) != (len(args) == 2):
			return usageError{fmt.Errorf("a symbolic link is created by: %s --type symlink <instance>/<path> <target>",
				c.CommandPath())}
		case *kind == client.Symlink:
			spec.Body = strings.NewReader(args[1])
		}
		if flags.parents {
			if at, err = at.pin(c.Context()); err != nil {
				return err
			}
			above := at
			above.path = path.Dir(at.path)
			if err := above.mkdirs(c.Context(), client.FileSpec{UID: spec.UID, GID: spec.GID}); err != nil {
				return err
			}
		}
		if *kind == client.RegularFile && !*force {
			if f, err := at.OpenFile(c.Context(), at.Name, at.path); err == nil {
				if f.Body != nil {
					f.Body.Close()
				}
				return kiln.Errorf(kiln.Conflict, "%s is there already; --force empties it", at)
			}
		}
		return at.explain(c.Context(), at.PutFile(c.Context(), at.Name, at.path, spec))
	}
	return c
}

// maxEdited is the largest file that is edited, in bytes.
const maxEdited = 64 << 20

func (a *app) fileEditCmd() *cobra.Command {
	return &cobra.Command{Use: "edit [<remote>:]<instance>/<path>", Short: "Edit a file of an instance",
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			at, err := a.fileAt(args[0])
			if err != nil {
				return err
			}
			if !terminal(a.In) { // owner and mode stay as they are
				return at.explain(c.Context(), at.PutFile(c.Context(), at.Name, at.path, client.FileSpec{Body: a.In}))
			}
			if at, err = at.pin(c.Context()); err != nil {
				return err
			}
			f, err := at.follow(c.Context())
			if err != nil {
				return err
			}
			if f.Body == nil {
				return kiln.Errorf(kiln.Conflict, "%s is a directory, which can't be edited", at)
			}
			defer f.Body.Close()
			b, err := io.ReadAll(io.LimitReader(f.Body, maxEdited+1))
			if err == nil && len(b) > maxEdited {
				err = kiln.Errorf(kiln.TooLarge, "%s is larger than %s; pull it, edit it and push it", at, size(maxEdited))
			}
			if err != nil {
				return err
			}
			edited, err := a.editorOf(b, "kiln-*-"+path.Base(at.path))
			if err != nil || string(edited) == string(b) {
				return err
			}
			return at.explain(c.Context(), at.PutFile(c.Context(), at.Name, at.path,
				client.FileSpec{Body: strings.NewReader(string(edited)), Size: int64(len(edited))}))
		}}
}

// mostLinks is how many symbolic links lead to a file at most, as in the kernel.
const mostLinks = 40

// follow opens what is at a place, or where symbolic links lead to from there.
func (at filePlace) follow(ctx context.Context) (*client.File, error) {
	for range mostLinks {
		f, err := at.OpenFile(ctx, at.Name, at.path)
		if err != nil || f.Type != client.Symlink {
			return f, at.explain(ctx, err)
		}
		if strings.HasPrefix(f.Target, "/") {
			at.path = path.Clean(f.Target)
		} else {
			at.path = path.Join(path.Dir(at.path), f.Target)
		}
	}
	return nil, kiln.Errorf(kiln.Invalid, "%s: too many symbolic links lead on from there", at)
}

// isDirectory reports whether a local file is one; what isn't there is none.
func isDirectory(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.IsDir()
}
