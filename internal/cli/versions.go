package cli

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func historyPath(alias string) string { return client.Path("/1.0/kiln/alias-history", alias) }

func (a *app) imageHistoryCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "history [<remote>:]<alias>", Short: "List the versions of an alias", Args: cobra.ExactArgs(1),
		Long: "List the versions of an alias. Wherever an image is named, <alias>@1 is the one before the " +
			"present one, and so on.",
	}
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		var list []api.AliasVersion
		if _, err := at.Get(c.Context(), historyPath(at.Name), nil, &list); err != nil {
			return a.missing(c.Context(), at, "alias", err)
		}
		return show(a, *form, []column[api.AliasVersion]{
			col('v', "VERSION", func(v api.AliasVersion) string {
				if v.Version < 0 {
					return "rolled back"
				}
				return fmt.Sprintf("%s@%d", at.Name, v.Version)
			}),
			col('f', "FINGERPRINT", func(v api.AliasVersion) string { return short(v.Fingerprint) }),
			col('s', "SINCE", func(v api.AliasVersion) string { return minute(v.Since) }),
			col('z', "SIZE", func(v api.AliasVersion) string {
				if !v.Here {
					return "deleted"
				}
				return size(v.Size)
			}),
			col('d', "DESCRIPTION", func(v api.AliasVersion) string { return v.Description }),
		}, list)
	}
	return c
}

func (a *app) imageRollbackCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rollback [<remote>:]<alias> [<versions>]", Short: "Roll an alias back to an earlier version",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			n := 1
			if len(args) == 2 {
				if n, err = strconv.Atoi(args[1]); err != nil || n < 1 {
					return usageError{fmt.Errorf("%q is not how many versions to go back: 1, 2 …", args[1])}
				}
			}
			var done api.AliasRollback
			if _, _, err := at.Do(c.Context(), client.Request{Method: http.MethodPost, Path: historyPath(at.Name),
				Body: api.AliasRollback{Versions: n}}, &done); err != nil {
				return a.missing(c.Context(), at, "alias", err)
			}
			a.say("%s is %s again", at.Name, short(done.To))
			a.tellOutdated(c.Context(), at, done.To)
			if done.AutoUpdate {
				a.say("updates skip %s and resume with the version after it", short(done.From))
			}
			return nil
		}}
}

func (a *app) imageDiffCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "diff [<remote>:]<image> <image>", Short: "Compare two images",
		Args: cobra.ExactArgs(2),
		Long: "Show what differs in the second image: packages (dpkg, apk) and files. Times of files are " +
			"ignored.",
	}
	form := formatFlag(c)
	packages := c.Flags().Bool("packages", false, "only packages")
	c.RunE = func(c *cobra.Command, args []string) error {
		before, err := a.image(c.Context(), args[0])
		if err != nil {
			return err
		}
		after, err := a.imageBeside(c.Context(), before, args[1])
		if err != nil {
			return err
		}
		var d api.ImageDiff
		path := "/1.0/kiln/images/" + before.Fingerprint + "/diff/" + after.Fingerprint
		if _, err := before.at.Get(c.Context(), path, nil, &d); err != nil {
			return err
		}
		if strings.HasPrefix(*form, "json") || strings.HasPrefix(*form, "yaml") {
			return show(a, *form, nil, []api.ImageDiff{d})
		}
		if len(d.Packages) > 0 || *packages {
			if err := show(a, *form, []column[api.PackageDiff]{
				col('n', "PACKAGE", func(p api.PackageDiff) string { return p.Name }),
				col('b', "BEFORE", func(p api.PackageDiff) string { return p.Before }),
				col('a', "AFTER", func(p api.PackageDiff) string { return p.After }),
			}, d.Packages); err != nil {
				return err
			}
		}
		if *packages {
			return nil
		}
		return show(a, *form, []column[api.FileDiff]{
			col('p', "FILE", func(f api.FileDiff) string { return f.Path }),
			col('c', "CHANGE", func(f api.FileDiff) string { return f.Change }),
			col('b', "BEFORE", func(f api.FileDiff) string { return fmt.Sprint(f.Before) }),
			col('a', "AFTER", func(f api.FileDiff) string { return fmt.Sprint(f.After) }),
		}, d.Files)
	}
	return c
}
