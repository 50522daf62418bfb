package cli

import (
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) operationCmd() *cobra.Command {
	c := &cobra.Command{Use: "operation", Short: "Manage background operations"}
	path := func(word string) (place.Place, string, error) {
		at, err := a.At(word)
		return at, client.Path("/1.0/operations", at.Name), err
	}
	c.AddCommand(a.operationListCmd(),
		&cobra.Command{Use: "show <operation>", Short: "Show an operation as YAML", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, p, err := path(args[0])
				if err != nil {
					return err
				}
				var o api.Operation
				if _, err := at.Get(c.Context(), p, nil, &o); err != nil {
					return a.missing(c.Context(), at, "operation", err)
				}
				return a.yaml(o)
			}},
		&cobra.Command{Use: "cancel <operation>", Short: "Cancel an operation",
			Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
				at, p, err := path(args[0])
				if err != nil {
					return err
				}
				return a.missing(c.Context(), at, "operation", at.Change(c.Context(), http.MethodDelete, p, nil, ""))
			}},
		&cobra.Command{Use: "wait <operation>", Short: "Wait for an operation to finish", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, _, err := path(args[0])
				if err != nil {
					return err
				}
				_, err = at.Wait(c.Context(), at.Name)
				return a.missing(c.Context(), at, "operation", err)
			}},
	)
	return c
}

func (a *app) operationListCmd() *cobra.Command {
	list := &cobra.Command{Use: "list [<remote>:]", Short: "List operations",
		Args: cobra.MaximumNArgs(1)}
	show := listFlags(a, list, "itdscu", []column[api.Operation]{
		col('i', "ID", func(o api.Operation) string { return o.ID }),
		col('t', "TYPE", func(o api.Operation) string { return strings.ToUpper(o.Class) }),
		col('d', "DESCRIPTION", func(o api.Operation) string { return o.Description }),
		col('s', "STATUS", func(o api.Operation) string { return strings.ToUpper(o.Status) }),
		col('c', "CANCELABLE", func(o api.Operation) string { return strings.ToUpper(yesNo(o.MayCancel)) }),
		col('u', "CREATED", func(o api.Operation) string { return minute(o.CreatedAt) }),
	})
	list.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		var byStatus map[string][]api.Operation
		if _, err := at.Get(c.Context(), "/1.0/operations", map[string][]string{"recursion": {"1"}}, &byStatus); err != nil {
			return err
		}
		var all []api.Operation
		for _, ops := range byStatus {
			all = append(all, ops...)
		}
		return show(all)
	}
	return list
}
