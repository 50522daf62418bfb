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
)

// newerImages gives, for each image that has one, the version that took its place.
func newerImages(ctx context.Context, c *client.Client) (map[string]string, error) {
	all, err := client.List[api.Image](ctx, c, "/1.0/images", 1)
	newer := map[string]string{}
	for _, i := range all {
		if i.ReplacedBy != "" {
			newer[i.Fingerprint] = i.ReplacedBy
		}
	}
	return newer, err
}

// withNewer completes the column that tells whether an instance's image has a newer
// version, for which kiln rebuild is.
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
