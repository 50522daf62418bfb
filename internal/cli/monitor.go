package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func (a *app) monitorCmd() *cobra.Command {
	c := &cobra.Command{Use: "monitor [<remote>:]", Short: "Show events as they happen", Args: cobra.MaximumNArgs(1)}
	types := c.Flags().StringArray("type", nil, "operation, lifecycle or logging (repeatable)")
	form := choiceFlag(c, "format", "f", "yaml", "", "yaml", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		known := []string{"operation", "lifecycle", "logging"}
		for _, t := range *types {
			if !slices.Contains(known, t) {
				return usageError{fmt.Errorf("--type %q is not a type of event%s; it is %s", t, kiln.DidYouMean(t, known),
					alternatives(known))}
			}
		}
		at, err := a.server(args)
		if err != nil {
			return err
		}
		err = at.Events(c.Context(), *types, func(e api.Event) error {
			if *form == "json" {
				return json.NewEncoder(a.data()).Encode(e)
			}
			var v any
			b, err := json.Marshal(e)
			if err := errors.Join(err, json.Unmarshal(b, &v)); err != nil {
				return err
			}
			if err := a.yaml(v); err != nil {
				return err
			}
			_, err = fmt.Fprint(a.Out, "\n\n")
			return err
		})
		if c.Context().Err() != nil {
			return nil
		}
		return err
	}
	return c
}
