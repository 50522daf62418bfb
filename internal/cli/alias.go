package cli

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func aliasPath(name string) string { return client.Path("/1.0/images/aliases", name) }

func (a *app) aliasCmd() *cobra.Command {
	c := &cobra.Command{Use: "alias", Short: "Manage image aliases"}
	create := &cobra.Command{Use: "create [<remote>:]<alias> <image>", Short: "Create an alias for an image",
		Args: cobra.ExactArgs(2)}
	description := create.Flags().String("description", "", "description")
	reuse := create.Flags().Bool("reuse", false, "move an alias that exists; the image it leaves is the version before")
	create.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		img, _, err := at.Images().Resolve(c.Context(), args[1])
		if err != nil {
			return err
		}
		entry := api.ImageAliasesEntry{Name: at.Name, Description: *description, Target: img.Fingerprint}
		err = at.Change(c.Context(), http.MethodPost, "/1.0/images/aliases", entry, "")
		if *reuse && errors.Is(err, kiln.Conflict) {
			err = at.Change(c.Context(), http.MethodPatch, client.Path("/1.0/images/aliases", at.Name),
				map[string]string{"target": entry.Target}, "")
		}
		return err
	}
	c.AddCommand(a.aliasListCmd(), create,
		&cobra.Command{Use: "rename [<remote>:]<alias> <new-name>", Short: "Rename an alias", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				to, err := at.SameServer(args[1])
				if err != nil {
					return usageError{err}
				}
				err = at.Change(c.Context(), http.MethodPost, aliasPath(at.Name), api.Rename{Name: to.Name}, "")
				return a.missing(c.Context(), at, "alias", err)
			}},
		&cobra.Command{Use: "delete [<remote>:]<alias>...",
			Short: "Delete aliases; the images stay", Args: cobra.MinimumNArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return a.deleteAll(c.Context(), args, a.named("alias", aliasPath), "")
			}},
		&cobra.Command{Use: "show [<remote>:]<alias>", Short: "Show an alias as YAML", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				at, err := a.At(args[0])
				if err != nil {
					return err
				}
				var e api.ImageAliasesEntry
				if _, err := at.Get(c.Context(), aliasPath(at.Name), nil, &e); err != nil {
					return a.missing(c.Context(), at, "alias", err)
				}
				return a.yaml(e)
			}},
	)
	return c
}

func (a *app) aliasListCmd() *cobra.Command {
	list := &cobra.Command{Use: "list [<remote>:] [<filter>...]", Short: "List aliases"}
	form := formatFlag(list)
	all := []column[api.ImageAliasesEntry]{
		col('a', "ALIAS", func(e api.ImageAliasesEntry) string { return e.Name }),
		col('f', "FINGERPRINT", func(e api.ImageAliasesEntry) string { return short(e.Target) }),
		col('t', "TYPE", func(e api.ImageAliasesEntry) string { return strings.ToUpper(e.Type) }),
		col('d', "DESCRIPTION", func(e api.ImageAliasesEntry) string { return e.Description }),
	}
	columns := columnsFlag(list, "aftd", all, "")
	list.RunE = func(c *cobra.Command, words []string) error {
		cols, err := choose(all, *columns, nil)
		if err != nil {
			return err
		}
		found, words, err := a.Aliases(c.Context(), words)
		if err != nil {
			return err
		}
		return show(a, *form, cols, slices.DeleteFunc(found, func(e api.ImageAliasesEntry) bool {
			return slices.ContainsFunc(words, func(w string) bool {
				return !strings.Contains(e.Name, w) && !strings.Contains(e.Target, w)
			})
		}))
	}
	return list
}
