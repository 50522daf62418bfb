package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/signing"
)

func (a *app) remoteCmd() *cobra.Command {
	c := &cobra.Command{Use: "remote", Short: "Manage the list of remote servers"}
	c.AddCommand(a.remoteListCmd(), a.remoteAddCmd(), a.remoteImportCmd(),
		&cobra.Command{Use: "get-default", Short: "Show the default remote", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				r, err := a.Config()
				if err == nil {
					fmt.Fprintln(a.Out, r.Default)
				}
				return err
			}},
		a.remoteChange("switch <remote>", "Set the default remote", 1, func(r *place.Config,
			args []string) error {
			c, err := r.Find(args[0])
			if err == nil && c.Streams() {
				err = kiln.Errorf(kiln.Invalid, "the remote %q only has images; it can't be the default", args[0])
			}
			r.Switch(args[0])
			return err
		}),
		a.remoteChange("remove <remote>", "Remove a remote", 1, func(r *place.Config, args []string) error {
			if args[0] == r.Default {
				return kiln.Errorf(kiln.Invalid, "the remote %q is the default; switch to another first: kiln remote switch local",
					args[0])
			}
			delete(r.Remotes, args[0])
			return r.Forget(args[0])
		}),
		a.remoteChange("rename <remote> <new-name>", "Rename a remote", 2, func(r *place.Config,
			args []string) error {
			return r.Rename(args[0], args[1])
		}),
		a.remoteChange("set-url <remote> <URL>", "Change the URL of a remote", 2, func(r *place.Config, args []string) error {
			c := *r.Remotes[args[0]]
			u, err := place.Address(args[1], c.Protocol)
			c.Addr, c.Static = u, false
			r.Remotes[args[0]] = &c
			return err
		}),
		a.remoteChange("set-key <remote> <public-key>|<file>|none", "Set the key that images of a remote must be signed with",
			2, func(r *place.Config, args []string) error {
				c := *r.Remotes[args[0]]
				c.ImageKey = ""
				if args[1] != "none" {
					key, err := place.PublicKey(args[1])
					if err != nil {
						return err
					}
					c.ImageKey = key.String()
				}
				r.Remotes[args[0]] = &c
				return nil
			}),
		a.setSignerCmd(),
	)
	return c
}

func (a *app) remoteListCmd() *cobra.Command {
	type row struct {
		name    string
		current bool
		*place.Remote
	}
	list := &cobra.Command{Use: "list", Short: "List remotes", Args: cobra.NoArgs}
	show := listFlags(a, list, "nupaPsg", []column[row]{
		col('n', "NAME", func(w row) string {
			if w.current {
				return w.name + " (current)"
			}
			return w.name
		}),
		col('u', "URL", func(w row) string { return w.Addr }),
		col('p', "PROTOCOL", func(w row) string { return orElse(w.Protocol, "kiln") }),
		col('a', "AUTH TYPE", func(w row) string {
			if w.Unix() {
				return "file access"
			}
			if w.Streams() {
				return "none"
			}
			return orElse(w.AuthType, "tls")
		}),
		col('P', "PUBLIC", func(w row) string { return strings.ToUpper(yesNo(w.Public)) }),
		col('s', "STATIC", func(w row) string { return strings.ToUpper(yesNo(w.Static)) }),
		col('g', "GLOBAL", func(row) string { return "NO" }),
		col('k', "IMAGE KEY", func(w row) string {
			key, err := signing.ParseKey(w.ImageKey)
			switch {
			case w.ImageKey == "":
				return ""
			case err != nil:
				return "BAD"
			}
			return key.ID()
		}),
		col('w', "SIGNS WITH", func(w row) string { return w.SignWith }),
	})
	list.RunE = func(*cobra.Command, []string) error {
		r, err := a.Config()
		if err != nil {
			return err
		}
		if form := list.Flag("format").Value.String(); strings.HasPrefix(form, "json") || strings.HasPrefix(form, "yaml") {
			return write(a, form, nil, []map[string]*place.Remote{r.Remotes}, compareRows)
		}
		var rows []row
		for _, n := range slices.Sorted(maps.Keys(r.Remotes)) {
			rows = append(rows, row{n, n == r.Default, r.Remotes[n]})
		}
		columns := list.Flag("columns")
		if !columns.Changed && slices.ContainsFunc(rows, func(w row) bool { return w.ImageKey != "" }) {
			if err := columns.Value.Set(columns.DefValue + "k"); err != nil { // scripts for lxc count on the others
				return err
			}
		}
		return show(rows)
	}
	return list
}

// remoteChange makes a verb that changes the file of remotes. Those that are always
// there only take part in the default.
func (a *app) remoteChange(use, short string, n int, f func(*place.Config, []string) error) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(n),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.Config()
			if err != nil {
				return err
			}
			c, err := r.Find(args[0])
			if err != nil {
				return err
			}
			verb, _, _ := strings.Cut(use, " ")
			if c.Static && (verb == "remove" || verb == "rename") || args[0] == "local" && verb == "set-url" {
				return kiln.Errorf(kiln.Invalid, "the remote %q is static: it is always there", args[0])
			}
			if err := f(r, args); err != nil {
				return err
			}
			return r.Save()
		}}
	return c
}

func (a *app) remoteImportCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "import [<directory>]", Short: "Import the remotes of lxc or incus", Args: cobra.MaximumNArgs(1),
		Long: "Import the remotes of lxc or incus, from a directory with a config.yml or from where those programs keep " +
			"it. Remotes that exist already are left alone. The client certificate is imported if there is none yet, so that " +
			"servers keep trusting this client.",
	}
	http := c.Flags().Bool("allow-http", false, "also import remotes whose address is plain http")
	c.RunE = func(_ *cobra.Command, args []string) error {
		r, err := a.Config()
		if err != nil {
			return err
		}
		dirs := args
		if len(dirs) == 0 {
			dirs = peerDirs()
		}
		found := false
		for _, dir := range dirs {
			if _, err := os.Stat(filepath.Join(dir, "config.yml")); err != nil {
				continue
			}
			found = true
			if err := a.importRemotes(r, dir, *http); err != nil {
				return err
			}
		}
		if !found {
			return kiln.Errorf(kiln.NotFound, "there is no config.yml in %s", strings.Join(dirs, ", "))
		}
		return r.Save()
	}
	return c
}

// peerDirs are where lxc and incus keep their remotes.
func peerDirs() []string {
	home, _ := os.UserConfigDir()
	return []string{
		orElse(os.Getenv("LXD_CONF"), filepath.Join(home, "lxc")),
		orElse(os.Getenv("INCUS_CONF"), filepath.Join(home, "incus")),
	}
}

// importRemotes adds the remotes of another client that aren't known yet. What can't
// be added is told and left out.
func (a *app) importRemotes(r *place.Config, dir string, http bool) error {
	other, err := place.Read(dir)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(other.Remotes)) {
		c := other.Remotes[name]
		if why := notImported(r, name, c, http); why != "" {
			a.remark("%s: not imported: %s", name, why)
			continue
		}
		if _, there := r.Remotes[name]; there || c.Unix() {
			continue // it is known, or another program's socket
		}
		if err := copyFile(other.CertPath(name), r.CertPath(name)); err != nil {
			return err
		}
		r.Remotes[name] = c
		a.say("%s: %s", name, c.Addr)
	}
	if _, err := os.Stat(r.Path("client.crt")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(copyFile(filepath.Join(dir, "client.key"), r.Path("client.key")),
		copyFile(filepath.Join(dir, "client.crt"), r.Path("client.crt")))
}

// notImported says why a remote of another client can't be imported; "" if it can, or
// needn't be.
func notImported(r *place.Config, name string, c *place.Remote, http bool) string {
	old, there := r.Remotes[name]
	addr, err := place.Address(c.Addr, c.Protocol)
	switch {
	case c.Unix(), there && old.Addr == c.Addr:
		return ""
	case there:
		return "there is a remote of that name, at " + old.Addr
	case !slices.Contains(protocols(), c.Protocol):
		return fmt.Sprintf("kiln doesn't speak the protocol %q", c.Protocol)
	case err != nil:
		return err.Error()
	case strings.HasPrefix(addr, "http://") && !http:
		return "its address is plain http, which protects against nothing; to import it all the same, give --allow-http"
	}
	return ""
}

// copyFile copies a small file, private to the user. One that isn't there is no
// error.
func copyFile(from, to string) error {
	f, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err
	}
	return disk.WriteBytes(to, 0o600, b)
}
