package cli

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func (a *app) imageDeleteCmd() *cobra.Command {
	return &cobra.Command{Use: "delete [<remote>:]<image>...", Short: "Delete images",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			all, err := allThere(args, func(word string) (heldImage, error) {
				i, err := a.image(c.Context(), word)
				if err != nil {
					return i, err
				}
				return i, i.surely()
			})
			if err != nil {
				return err
			}
			var errs []error
			seen := map[string]bool{}
			for _, i := range all {
				id := i.at.Remote + ":" + i.Fingerprint
				if seen[id] { // two names of one
					continue
				}
				seen[id] = true
				errs = append(errs, i.at.Change(c.Context(), http.MethodDelete, imagePath(i.Image), nil, ""))
			}
			return errors.Join(errs...)
		}}
}

// surely refuses to delete an image that is named by a few digits: they may mean another
// image tomorrow. The error is Invalid.
func (i heldImage) surely() error {
	const enough = 8
	name := i.at.Name
	isAlias := slices.ContainsFunc(i.Aliases, func(al api.ImageAlias) bool { return al.Name == name })
	if !isAlias && len(name) < enough && strings.HasPrefix(i.Fingerprint, strings.ToLower(name)) {
		return kiln.Errorf(kiln.Invalid, "%q is short for the image %s; to delete it give at least %d digits or an alias",
			name, short(i.Fingerprint), enough)
	}
	return nil
}
