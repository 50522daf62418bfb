package cli

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

const (
	acknowledged = "acknowledged"
	resolved     = "resolved"
)

func (a *app) warningCmd() *cobra.Command {
	c := &cobra.Command{Use: "warning", Short: "Manage warnings",
		Long: "A warning says what failed of what the daemon does unasked: starts of instances with the daemon, scheduled " +
			"snapshots, updates of images, networks, copies of its database; and what it finds damaged."}
	one := func(use, short string, run func(c *cobra.Command, at place.Place, path string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				return a.missing(c.Context(), at, "warning", run(c, at, client.Path("/1.0/warnings", at.Name)))
			}}
	}
	show := one("show [<remote>:]<warning>", "Show a warning as YAML",
		func(c *cobra.Command, at place.Place, path string) error {
			var w api.Warning
			if _, err := at.Get(c.Context(), path, nil, &w); err != nil {
				return err
			}
			return a.yaml(w)
		})
	ack := one("acknowledge [<remote>:]<warning>", "Acknowledge a warning; lists leave it out",
		func(c *cobra.Command, at place.Place, path string) error {
			return at.Change(c.Context(), http.MethodPut, path, api.WarningPut{Status: acknowledged}, "")
		})
	c.AddCommand(a.warningListCmd(), show, ack, a.warningDeleteCmd())
	return c
}

func (a *app) warningListCmd() *cobra.Command {
	list := &cobra.Command{Use: "list [<remote>:]", Short: "List warnings",
		Args: cobra.MaximumNArgs(1)}
	columns := []column[api.Warning]{
		col('u', "UUID", func(w api.Warning) string { return w.UUID }),
		col('t', "TYPE", func(w api.Warning) string { return w.Type }),
		col('S', "STATUS", func(w api.Warning) string { return w.Status }),
		col('s', "SEVERITY", func(w api.Warning) string { return w.Severity }),
		col('c', "COUNT", func(w api.Warning) string { return strconv.FormatInt(w.Count, 10) }),
		col('p', "PROJECT", func(w api.Warning) string { return w.Project }),
		col('l', "LAST SEEN", func(w api.Warning) string { return minute(w.LastSeenAt) }),
		col('f', "FIRST SEEN", func(w api.Warning) string { return minute(w.FirstSeenAt) }),
		col('e', "ABOUT", func(w api.Warning) string { return w.EntityURL }),
		col('m', "MESSAGE", func(w api.Warning) string { return w.LastMessage }),
	}
	form, wanted := formatFlag(list), columnsFlag(list, "uteSscl", columns, "")
	all := list.Flags().BoolP("all", "a", false, "also those that are acknowledged or resolved")
	list.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		chosen, err := choose(columns, *wanted, nil)
		if err != nil {
			return err
		}
		warnings, err := client.List[api.Warning](c.Context(), at.Client, "/1.0/warnings", 1)
		if err != nil {
			return err
		}
		var shown []api.Warning
		for _, w := range warnings {
			if *all || w.Status != acknowledged && w.Status != resolved {
				shown = append(shown, w)
			}
		}
		return showInOrder(a, *form, chosen, shown)
	}
	return list
}

func (a *app) warningDeleteCmd() *cobra.Command {
	c := &cobra.Command{Use: "delete [<remote>:]<warning>",
		Short: "Delete a warning; it comes back if the same fails again", Args: cobra.MaximumNArgs(1)}
	all := c.Flags().BoolP("all", "a", false, "delete all warnings of the server")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all {
			at, rest, err := a.Server(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return usageError{errors.New("say either which warning, or --all")}
			}
			warnings, err := client.List[api.Warning](c.Context(), at.Client, "/1.0/warnings", 1)
			if err != nil {
				return err
			}
			var errs []error
			for _, w := range warnings {
				errs = append(errs, at.Change(c.Context(), http.MethodDelete, client.Path("/1.0/warnings", w.UUID), nil, ""))
			}
			return errors.Join(errs...)
		}
		if len(args) == 0 {
			return usageError{errors.New("say which warning, or --all; see: kiln warning list")}
		}
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		return a.missing(c.Context(), at, "warning", at.Change(c.Context(), http.MethodDelete,
			client.Path("/1.0/warnings", at.Name), nil, ""))
	}
	return c
}
