package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) explainCmd() *cobra.Command {
	c := &cobra.Command{Use: "explain [<remote>:]<instance>", Args: cobra.ExactArgs(1),
		Short: "Diagnose the network of an instance, step by step",
		Long: "Follow the packets of an instance through its network and the host, and say at each step what is in order, " +
			"what is broken, and how to fix it."}
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		var all []api.NetworkFinding
		path := client.Path("/1.0/kiln/instances", at.Name) + "/network"
		if _, err := at.Get(c.Context(), path, nil, &all); err != nil {
			return a.missing(c.Context(), at, "instance", err)
		}
		err = show(a, *form, []column[api.NetworkFinding]{
			col('d', "DEVICE", func(f api.NetworkFinding) string { return f.Device }),
			col('c', "CHECK", func(f api.NetworkFinding) string { return f.Check }),
			col('s', "STATE", func(f api.NetworkFinding) string {
				return map[bool]string{true: "BROKEN", false: "ok"}[f.Broken]
			}),
			col('t', "DETAIL", func(f api.NetworkFinding) string { return printable(f.Detail) }),
		}, all)
		if err != nil {
			return err
		}
		var cures []string
		for _, f := range all {
			if f.Broken {
				cures = append(cures, f.Check+": "+f.Detail+"; cure: "+f.Cure)
			}
		}
		if cures != nil {
			return a.typed(at, kiln.Errorf(kiln.Network, "the network of %q is broken:\n  %s", at.Name,
				strings.Join(cures, "\n  ")))
		}
		return nil
	}
	return c
}
