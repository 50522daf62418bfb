package cli

import (
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) mirrorCmd() *cobra.Command {
	c := &cobra.Command{Use: "mirror", Short: "Keep copies of what other servers have"}
	path := func(name string) string { return client.Path("/1.0/kiln/mirrors", name) }
	list := &cobra.Command{Use: "list [<remote>:]", Aliases: []string{"ls"}, Short: "List mirrors",
		Args: cobra.MaximumNArgs(1)}
	form := formatFlag(list)
	list.RunE = func(c *cobra.Command, args []string) error {
		at, _, err := a.Server(args)
		if err != nil {
			return err
		}
		all, err := client.List[api.Mirror](c.Context(), at.Client, "/1.0/kiln/mirrors", 1)
		if err != nil {
			return err
		}
		return show(a.Out, *form, []column[api.Mirror]{
			{'n', "NAME", func(m api.Mirror) string { return m.Name }},
			{'u', "URL", func(m api.Mirror) string { return m.Server }},
			{'f', "FILTERS", func(m api.Mirror) string { return strings.Join(m.Filters, " ") }},
			{'m', "MODE", func(m api.Mirror) string {
				return map[bool]string{true: "pull-through",
					false: "all"}[m.PullThrough]
			}},
			{'l', "LAST RUN", func(m api.Mirror) string { return minute(m.LastRunAt) }},
			{'e', "ERROR", func(m api.Mirror) string { return m.LastError }},
		}, all)
	}
	each := func(use, short, method string) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				if method == http.MethodDelete {
					return at.Change(c.Context(), method, path(at.Name), nil, "")
				}
				_, err = a.watch(c.Context(), at, client.Request{Method: method, Path: path(at.Name), Body: struct{}{}})
				return err
			}}
	}
	c.AddCommand(list, a.mirrorAddCmd(),
		each("run [<remote>:]<mirror>", "Bring a mirror up to date now", http.MethodPost),
		each("remove [<remote>:]<mirror>", "Mirror a server no more; the images stay", http.MethodDelete))
	return c
}

func (a *app) mirrorAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "add <remote> [<filter>...]", Short: "Have the daemon keep and serve images of another server",
		Args: cobra.MinimumNArgs(1),
		Long: "Have the daemon keep and serve the newest version of each image of another server that fits all filters: a " +
			"part of an alias, or key=value of a property, the architecture or the type. It is brought up to date as often " +
			"as images.auto_update_interval says.",
	}
	keep := c.Flags().Int("keep", 1, "older versions to keep")
	through := c.Flags().Bool("pull-through", false, "fetch what somebody asks for, not all")
	private := c.Flags().Bool("private", false, "only for clients that are trusted here")
	name := c.Flags().String("name", "", "name of the mirror; the remote's unless given")
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := a.Config()
		if err != nil {
			return err
		}
		remote := strings.TrimSuffix(args[0], ":")
		where, err := r.Reach(remote)
		if err != nil {
			return err
		}
		at, err := a.At("")
		if err != nil {
			return err
		}
		post := api.MirrorsPost{
			Name: orElse(*name, remote), Server: where.Server, Protocol: where.Protocol, Certificate: where.Certificate,
			Filters: args[1:],
			Keep:    *keep, PullThrough: *through, Public: !*private, RemoteAccess: api.RemoteAccess{CA: where.CA,
				Mirrors: where.Mirrors, Proxy: where.Proxy},
		}
		_, err = a.watch(c.Context(), at, client.Request{Method: http.MethodPost, Path: "/1.0/kiln/mirrors", Body: post})
		return err
	}
	return c
}
