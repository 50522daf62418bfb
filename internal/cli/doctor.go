package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func (a *app) doctorCmd() *cobra.Command {
	c := &cobra.Command{Use: "doctor [<remote>:]", Args: cobra.MaximumNArgs(1),
		Short: "Check whether a server's host has what instances need",
		Long: "Look at what instances need of a server's host, and name what to do: controllers of cgroups, lxcfs, EROFS, " +
			"limits of the kernel, programs, room on the disk, and warnings. What is \"weak\" works with the restriction that " +
			"is said; when something is broken the exit code is 1."}
	form := objectFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		if err := hasExtension(c.Context(), at, "kiln_host", "tell of its host"); err != nil {
			return err
		}
		var all []api.HostFinding
		if _, err := at.Get(c.Context(), "/1.0/kiln/host", nil, &all); err != nil {
			return err
		}
		if done, err := a.object(*form, all); done {
			return err
		}
		var broken []string
		for _, f := range all {
			a.print("%-6s  %s: %s", printable(f.State), printable(f.Check), printable(f.Detail))
			if f.Cure != "" {
				a.print("        %s", printable(f.Cure))
			}
			if f.State == "broken" {
				broken = append(broken, f.Check)
			}
		}
		if broken != nil {
			return kiln.Errorf(kiln.Internal, "the host has what is broken: %s; see above", strings.Join(broken, ", "))
		}
		return nil
	}
	return c
}
