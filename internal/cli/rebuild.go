package cli

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// newerImages gives, for each image of an instance that has one, the version that is in
// its place now. Other servers than kiln's keep no versions.
func newerImages(ctx context.Context, c *client.Client) (map[string]string, error) {
	newer := map[string]string{}
	_, err := c.Get(ctx, "/1.0/kiln/images/newer", nil, &newer)
	if errors.Is(err, kiln.NotFound) {
		err = nil
	}
	return newer, err
}

// outdated reports whether an instance was made from another version of its image than
// the present one.
func outdated(i api.InstanceFull, newer map[string]string) bool {
	return newer[i.Config["volatile.base_image"]] != ""
}

// tellOutdated says how many instances use another version of an image than the one that
// is in its place now.
func (a *app) tellOutdated(ctx context.Context, at place.Place, fp string) {
	if a.quiet {
		return
	}
	newer, err := newerImages(ctx, at.Client)
	if err != nil || len(newer) == 0 {
		return // only a hint
	}
	all, err := client.List[api.Instance](ctx, at.Client, "/1.0/instances", 1)
	if err != nil {
		return
	}
	n := 0
	for _, i := range all {
		if newer[i.Config["volatile.base_image"]] == fp {
			n++
		}
	}
	if n > 0 {
		where := ""
		if at.Remote != "local" {
			where = " " + at.Remote + ":"
		}
		verb := map[bool]string{true: "uses", false: "use"}[n == 1]
		a.remark("%s %s another version: kiln list%s outdated=true; update with: kiln rebuild", count(n, "instance"), verb,
			where)
	}
}

// withNewer completes the column that tells which version is in the place of an
// instance's image now, if that is another: it is what kiln rebuild takes.
func withNewer(columns []column[api.InstanceFull], newer map[string]string) []column[api.InstanceFull] {
	columns = slices.Clone(columns)
	for n := range columns {
		if columns[n].letter == 'o' {
			columns[n].value = func(i api.InstanceFull) string {
				fp := newer[i.Config["volatile.base_image"]]
				return short(fp)
			}
		}
	}
	return columns
}

func (a *app) rebuildCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "rebuild [<remote>:]<instance> [[<remote>:]<image>]",
		Short: "Rebuild the root filesystem of an instance from an image", Args: cobra.RangeArgs(1, 2),
		Long: "Rebuild the root filesystem of an instance: from the newest version of the image that it was made from, " +
			"or from another. What was changed in it is lost; its configuration and its snapshots stay.",
	}
	force := c.Flags().BoolP("force", "f", false, "stop an instance that runs, and start it again")
	empty := c.Flags().Bool("empty", false, "make it empty, for a root filesystem that you bring yourself")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *empty && len(args) == 2 {
			return usageError{errors.New("--empty and an image exclude each other")}
		}
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		var body struct {
			Source api.InstanceSource `json:"source"`
		}
		body.Source.Type = "image"
		if *empty {
			body.Source.Type = "none"
		}
		if len(args) == 2 {
			if body.Source, err = a.InstanceSource(c.Context(), args[1], i.at, false); err != nil {
				return err
			}
		}
		running := i.Status != "Stopped"
		if running && !*force {
			return kiln.Errorf(kiln.Conflict, "The instance %q is currently running, stop it first or pass --force", i.Name)
		}
		if running {
			if err := a.act(c.Context(), i.at, api.InstanceStatePut{Action: "stop", Force: true, Timeout: -1}); err != nil {
				return err
			}
		}
		_, err = a.watch(c.Context(), i.at, client.Request{Method: http.MethodPost, Path: instancePath(i.Name) + "/rebuild",
			Body: body})
		if running {
			err = errors.Join(err, a.act(c.Context(), i.at, api.InstanceStatePut{Action: "start", Timeout: -1}))
		}
		return err
	}
	return c
}
