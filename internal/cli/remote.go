package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/whole"
)

func (a *app) remoteCmd() *cobra.Command {
	c := &cobra.Command{Use: "remote", Short: "Keep the list of servers"}
	type row struct {
		name string
		*remoteConfig
	}
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List servers", Args: cobra.NoArgs}
	form := formatFlag(list)
	list.RunE = func(*cobra.Command, []string) error {
		r, err := a.remotes()
		if err != nil {
			return err
		}
		if strings.HasPrefix(*form, "json") || strings.HasPrefix(*form, "yaml") {
			return show(a.Out, *form, nil, []map[string]*remoteConfig{r.Remotes})
		}
		var rows []row
		for _, n := range slices.Sorted(maps.Keys(r.Remotes)) {
			rows = append(rows, row{n, r.Remotes[n]})
		}
		return show(a.Out, *form, []column[row]{
			{'n', "NAME", func(w row) string {
				if w.name == r.Default {
					return w.name + " (current)"
				}
				return w.name
			}},
			{'u', "URL", func(w row) string { return w.Addr }},
			{'p', "PROTOCOL", func(w row) string { return orElse(w.Protocol, "kiln") }},
			{'a', "AUTH TYPE", func(w row) string {
				if w.unix() {
					return "file access"
				}
				if w.streams() {
					return "none"
				}
				return orElse(w.AuthType, "tls")
			}},
			{'P', "PUBLIC", func(w row) string { return strings.ToUpper(yesNo(w.Public)) }},
			{'s', "STATIC", func(w row) string { return strings.ToUpper(yesNo(w.static)) }},
			{'g', "GLOBAL", func(row) string { return "NO" }},
		}, rows)
	}
	c.AddCommand(list, a.remoteAddCmd(), a.remoteImportCmd(),
		&cobra.Command{Use: "get-default", Short: "Show the server that is used when none is named", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				r, err := a.remotes()
				if err == nil {
					fmt.Fprintln(a.Out, r.Default)
				}
				return err
			}},
		a.remoteChange("switch <remote>", "Use another server when none is named", 1, func(r *remotes, args []string) error {
			c, err := r.find(args[0])
			if err == nil && c.streams() {
				err = kiln.Errorf(kiln.Invalid, "the remote %q only has images; it can't be the default", args[0])
			}
			r.Default = args[0]
			return err
		}),
		a.remoteChange("remove <remote>", "Forget a server", 1, func(r *remotes, args []string) error {
			if args[0] == r.Default {
				return kiln.Errorf(kiln.Invalid, "the remote %q is the default; switch to another first: kiln remote switch local",
					args[0])
			}
			delete(r.Remotes, args[0])
			return r.forget(args[0])
		}),
		a.remoteChange("rename <remote> <new name>", "Give a server another name", 2, func(r *remotes, args []string) error {
			if _, there := r.Remotes[args[1]]; there {
				return kiln.Errorf(kiln.Conflict, "The remote %q already exists", args[1])
			}
			if err := checkRemoteName(args[1]); err != nil {
				return err
			}
			r.Remotes[args[1]] = r.Remotes[args[0]]
			delete(r.Remotes, args[0])
			if r.Default == args[0] {
				r.Default = args[1]
			}
			err := os.Rename(r.certPath(args[0]), r.certPath(args[1]))
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}),
		a.remoteChange("set-url <remote> <URL>", "Change where a server is", 2, func(r *remotes, args []string) error {
			c := *r.Remotes[args[0]]
			u, err := address(args[1], c.Protocol)
			c.Addr, c.static = u, false
			r.Remotes[args[0]] = &c
			return err
		}),
	)
	return c
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// remoteChange makes a verb that changes the file of remotes. Those that are always
// there only take part in the default.
func (a *app) remoteChange(use, short string, n int, f func(*remotes, []string) error) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(n),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.remotes()
			if err != nil {
				return err
			}
			c, err := r.find(args[0])
			if err != nil {
				return err
			}
			verb, _, _ := strings.Cut(use, " ")
			if c.static && (verb == "remove" || verb == "rename") || args[0] == "local" && verb == "set-url" {
				return kiln.Errorf(kiln.Invalid, "the remote %q is static: it is always there", args[0])
			}
			if err := f(r, args); err != nil {
				return err
			}
			return r.save()
		}}
	if strings.HasPrefix(use, "remove") {
		c.Aliases = []string{"rm", "delete"}
	}
	return c
}

// forget removes the certificate that is pinned for a remote.
func (r *remotes) forget(name string) error {
	err := os.Remove(r.certPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func checkRemoteName(name string) error {
	if name == "" || strings.ContainsAny(name, ":/ \t\n") || strings.HasPrefix(name, ".") {
		return kiln.Errorf(kiln.Invalid, "%q can't name a remote: it must not be empty, begin with a dot or have a colon, "+
			"slash or space in it", name)
	}
	return nil
}

// address completes what people write for a server.
func address(s, protocol string) (string, error) {
	if s == "unix:" || s == "unix://" || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "unix:/") {
		return "unix://" + strings.TrimPrefix(strings.TrimPrefix(s, "unix:"), "//"), nil
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return "", kiln.Errorf(kiln.Invalid, "%q is not the address of a server, as https://images.example:8443 is", s)
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return "", kiln.Errorf(kiln.Invalid, "Only https URLs are supported: %s", s)
	}
	if u.Port() == "" && protocol != kiln.ProtocolStreams {
		u.Host = net.JoinHostPort(u.Hostname(), "8443")
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

func (a *app) remoteImportCmd() *cobra.Command {
	return &cobra.Command{
		Use: "import [<directory>]", Short: "Take over the servers that lxc or incus know", Args: cobra.MaximumNArgs(1),
		Long: "Take over the servers of lxc or incus: from a directory with a config.yml, or from where those programs " +
			"keep theirs. Servers that are known already stay as they are. The client's certificate comes along if there is " +
			"none yet, so that servers go on to trust it.",
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.remotes()
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
				if err := a.importRemotes(r, dir); err != nil {
					return err
				}
			}
			if !found {
				return kiln.Errorf(kiln.NotFound, "there is no config.yml in %s", strings.Join(dirs, ", "))
			}
			return r.save()
		}}
}

// peerDirs are where lxc and incus keep their remotes.
func peerDirs() []string {
	home, _ := os.UserConfigDir()
	return []string{
		orElse(os.Getenv("LXD_CONF"), filepath.Join(home, "lxc")),
		orElse(os.Getenv("INCUS_CONF"), filepath.Join(home, "incus")),
	}
}

func (a *app) importRemotes(r *remotes, dir string) error {
	other, err := readRemotes(dir)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(other.Remotes)) {
		c := other.Remotes[name]
		if old, there := r.Remotes[name]; there || c.Protocol == "oci" || c.unix() {
			if there && old.Addr != c.Addr && !c.unix() {
				a.remark("%s: there is a remote of that name, at %s; left alone", name, old.Addr)
			}
			continue
		}
		if err := checkRemoteName(name); err != nil {
			return err
		}
		if err := copyFile(other.certPath(name), r.certPath(name)); err != nil {
			return err
		}
		r.Remotes[name] = c
		a.say("%s: %s", name, c.Addr)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "client.crt")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(copyFile(filepath.Join(dir, "client.key"), filepath.Join(r.dir, "client.key")),
		copyFile(filepath.Join(dir, "client.crt"), filepath.Join(r.dir, "client.crt")))
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
	return whole.WriteBytes(to, 0o600, b)
}
