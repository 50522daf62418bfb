package cli

import (
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) mirrorCmd() *cobra.Command {
	c := &cobra.Command{Use: "mirror", Short: "Manage mirrors of image servers"}
	path := func(name string) string { return client.Path("/1.0/kiln/mirrors", name) }
	list := &cobra.Command{Use: "list [<remote>:]", Short: "List mirrors",
		Args: cobra.MaximumNArgs(1)}
	show := listFlags(a, list, "nufmle", []column[api.Mirror]{
		col('n', "NAME", func(m api.Mirror) string { return m.Name }),
		col('u', "URL", func(m api.Mirror) string { return m.Server }),
		col('f', "FILTERS", func(m api.Mirror) string { return strings.Join(m.Filters, " ") }),
		col('m', "MODE", func(m api.Mirror) string {
			return map[bool]string{true: "pull-through",
				false: "all"}[m.PullThrough]
		}),
		col('l', "LAST RUN", func(m api.Mirror) string { return minute(m.LastRunAt) }),
		col('e', "ERROR", func(m api.Mirror) string { return m.LastError }),
	})
	list.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		all, err := client.List[api.Mirror](c.Context(), at.Client, "/1.0/kiln/mirrors", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	each := func(use, short, method string) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				if method == http.MethodDelete {
					return a.missing(c.Context(), at, "mirror", at.Change(c.Context(), method, path(at.Name), nil, ""))
				}
				done, err := a.watch(c.Context(), at, client.Request{Method: method, Path: path(at.Name),
					Body: api.ImageRefreshPost{Stale: a.AcceptExpired}})
				a.tellMirrored(done)
				return a.missing(c.Context(), at, "mirror", err)
			}}
		if method == http.MethodPost {
			a.staleFlag(c)
		}
		return c
	}
	c.AddCommand(list, a.mirrorAddCmd(),
		each("run [<remote>:]<mirror>", "Update a mirror now", http.MethodPost),
		each("remove [<remote>:]<mirror>", "Remove a mirror; its images stay", http.MethodDelete))
	return c
}

// tellMirrored says what a run of a mirror brought.
func (a *app) tellMirrored(done api.Operation) {
	if text, ok := done.Metadata["mirrored"].(string); ok {
		a.say("%s", text)
	}
}

func (a *app) mirrorAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "add <remote> [<filter>...]", Short: "Mirror the images of another server",
		Args: cobra.MinimumNArgs(1),
		Long: "Keep and serve the newest version of each image of another server that matches all filters: part of an " +
			"alias, or key=value with a property, the architecture or the type. The mirror is updated every " +
			"images.auto_update_interval hours.",
	}
	keep := c.Flags().Int("keep", 1, "older versions to keep")
	through := c.Flags().Bool("pull-through", false, "fetch images when a client asks for them, not in advance")
	private := c.Flags().Bool("private", false, "serve the images to trusted clients only")
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
			Keep:    *keep, PullThrough: *through, Public: !*private, RemoteAccess: place.Access(where),
		}
		if r.Remotes[remote].Unix() {
			s := api.ImagesPostSource{}
			from, err := a.Connect(remote)
			if err == nil {
				err = place.OverNetwork(c.Context(), from, &s, "kiln image copy")
			}
			if err != nil {
				return err
			}
			post.Server, post.Protocol, post.Certificate, post.Mirrors = s.Server, s.Protocol, s.Certificate, s.Mirrors
		}
		done, err := a.watch(c.Context(), at, client.Request{Method: http.MethodPost, Path: "/1.0/kiln/mirrors", Body: post})
		a.tellMirrored(done)
		return err
	}
	return c
}
