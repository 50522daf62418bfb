package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) metadataCmd() *cobra.Command {
	c := &cobra.Command{Use: "metadata", Short: "Manage the metadata of an instance"}
	read := func(ctx context.Context, word string) (m api.ImageMetadata, at place.Place, tag string, err error) {
		if at, err = a.At(word); err != nil {
			return m, at, "", err
		}
		tag, err = at.Get(ctx, instancePath(at.Name)+"/metadata", nil, &m)
		return m, at, tag, a.suggest(ctx, at, err)
	}
	c.AddCommand(
		&cobra.Command{Use: "show [<remote>:]<instance>", Short: "Show the metadata as YAML", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				m, _, _, err := read(c.Context(), args[0])
				if err != nil {
					return err
				}
				return a.yaml(m)
			}},
		&cobra.Command{Use: "edit [<remote>:]<instance>", Short: "Edit the metadata", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				m, at, tag, err := read(c.Context(), args[0])
				if err != nil {
					return err
				}
				return edit(a, editHelp, m, nil, tag, func(m api.ImageMetadata, tag string) error {
					return at.Change(c.Context(), http.MethodPut, instancePath(at.Name)+"/metadata", m, tag)
				})
			}},
	)
	return c
}
