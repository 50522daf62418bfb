package cli

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) imageRefreshCmd() *cobra.Command {
	c := &cobra.Command{Use: "refresh [<remote>:]<image>...",
		Short: "Update images from the servers they were copied from", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return each(args, func(word string) error {
				i, err := a.image(c.Context(), word)
				if err != nil {
					return err
				}
				op, err := a.watch(c.Context(), i.at, client.Request{Method: http.MethodPost, Path: imagePath(i.Image) + "/refresh",
					Body: api.ImageRefreshPost{Stale: a.AcceptExpired}})
				if err != nil {
					return err
				}
				if from, ok := op.Metadata["repaired"].(string); ok {
					a.say("Image up to date; it was damaged, and is repaired, from %s.", from)
				} else if op.Metadata["refreshed"] == true {
					a.say("Image refreshed successfully!")
					if fp, ok := op.Metadata["fingerprint"].(string); ok {
						a.tellOutdated(c.Context(), i.at, fp)
					}
				} else {
					a.say("Image already up to date.")
				}
				return nil
			})
		}}
	a.staleFlag(c)
	return c
}

func (a *app) imagePruneCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "prune [<remote>:]", Short: "Delete unused images", Args: cobra.MaximumNArgs(1),
		Long: "Delete cached images and older versions of images that no instance was made from.",
	}
	all := c.Flags().Bool("all", false, "also images without an alias")
	dry := c.Flags().Bool("dry-run", false, "only show what would be deleted")
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		var list []api.PrunedImage
		r := client.Request{Method: http.MethodPost, Path: "/1.0/kiln/images/prune",
			Body: api.ImagesPrune{All: *all, DryRun: *dry}}
		if _, _, err := at.Do(c.Context(), r, &list); err != nil {
			return err
		}
		if err := show(a, *form, []column[api.PrunedImage]{
			col('f', "FINGERPRINT", func(p api.PrunedImage) string { return short(p.Fingerprint) }),
			col('d', "DESCRIPTION", func(p api.PrunedImage) string { return p.Properties["description"] }),
			colBytes('s', "SIZE", func(p api.PrunedImage) int64 { return p.Size }),
			col('w', "WHY", func(p api.PrunedImage) string { return p.Why }),
		}, list); err != nil {
			return err
		}
		var sum int64
		for _, p := range list {
			sum += p.Size
		}
		verb := "deleted"
		if *dry {
			verb = "would be deleted"
		}
		a.remark("%s of %s %s", count(len(list), "image"), size(sum), verb)
		return nil
	}
	return c
}
