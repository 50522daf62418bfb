package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

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
		Use:   "rebuild [<remote>:]<instance> [[<remote>:]<image>] | --outdated [<remote>:]",
		Short: "Rebuild the root filesystem of an instance from an image", Args: cobra.MaximumNArgs(2),
		Long: "Rebuild the root filesystem of an instance: from the newest version of the image that it was made from, " +
			"or from another. What was changed in it is lost; its configuration and its snapshots stay. An instance that " +
			"runs is stopped when the new files are ready, not before.",
		Example: "  kiln rebuild web\n  kiln rebuild web debian/13 --force\n  kiln rebuild --outdated --force",
	}
	force := c.Flags().BoolP("force", "f", false, "stop an instance that runs, and start it again")
	empty := c.Flags().Bool("empty", false, "make it empty, for a root filesystem that you bring yourself")
	all := c.Flags().Bool("outdated", false, "every instance whose image has a newer version")
	a.staleFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case *all && (*empty || len(args) > 1 || len(args) == 1 && !place.IsServer(args[0])):
			return usageError{errors.New("--outdated takes each instance from the newest version of its image; name no " +
				"instance and no image")}
		case *all:
			return a.rebuildOutdated(c.Context(), args, *force)
		case len(args) == 0:
			return usageError{fmt.Errorf("missing argument: <instance>; usage: %s", c.UseLine())}
		case *empty && len(args) == 2:
			return usageError{errors.New("--empty and an image exclude each other")}
		}
		post := api.InstanceRebuildPost{Force: *force}
		post.Source.Type = map[bool]string{true: "none", false: "image"}[*empty]
		return a.rebuild(c.Context(), args[0], strings.Join(args[1:], ""), post)
	}
	return c
}

// rebuildOutdated rebuilds each instance of a server whose image has a newer version.
func (a *app) rebuildOutdated(ctx context.Context, args []string, force bool) error {
	at, err := a.server(args)
	if err != nil {
		return err
	}
	newer, err := newerImages(ctx, at.Client)
	if err != nil {
		return err
	}
	list, err := client.List[api.Instance](ctx, at.Client, "/1.0/instances", 1)
	if err != nil {
		return err
	}
	var names []string
	for _, i := range list {
		if newer[i.Config["volatile.base_image"]] != "" {
			names = append(names, at.Remote+":"+i.Name)
		}
	}
	if len(names) == 0 {
		a.say("Every instance has the newest version of its image that is here")
	}
	return each(names, func(word string) error {
		post := api.InstanceRebuildPost{Source: api.InstanceSource{Type: "image"}, Force: force}
		if err := a.rebuild(ctx, word, "", post); err != nil {
			return err
		}
		a.say("Rebuilt %s", strings.TrimPrefix(word, "local:"))
		return nil
	})
}

// rebuild has a server rebuild an instance; image is a word of the user, or "" for what
// post says.
func (a *app) rebuild(ctx context.Context, word, image string, post api.InstanceRebuildPost) error {
	i, err := a.instance(ctx, word)
	if err != nil {
		return a.otherWay(ctx, i.at, word, image, err)
	}
	if image != "" {
		if post.Source, err = a.InstanceSource(ctx, image, i.at, false); err != nil {
			return err
		}
	}
	running := i.Status == "Running" || i.Status == "Ready" || i.Status == "Frozen"
	var s api.Server
	if _, err := i.at.Get(ctx, "/1.0", nil, &s); err != nil {
		return err
	}
	// Without force the server says what is in the way, and first whether there is the image.
	if slices.Contains(s.APIExtensions, "kiln_rebuild_force") || !running || !post.Force {
		_, err = a.watch(ctx, i.at, rebuildRequest(i.Name, post))
		return err
	}
	return a.rebuildStopped(ctx, i, post)
}

// otherWay makes another error of one about an instance that isn't there, when the words
// are an image and an instance.
func (a *app) otherWay(ctx context.Context, at place.Place, word, image string, err error) error {
	if image == "" || kiln.KindOf(err) != kiln.NotFound || at.Client == nil {
		return err
	}
	if _, _, ierr := at.Images().Resolve(ctx, at.Name); ierr != nil && !strings.Contains(word, ":") {
		return err
	}
	if _, ierr := a.instance(ctx, image); ierr != nil {
		return err
	}
	return usageError{fmt.Errorf("%q is an instance, and %q is none: the instance comes first: kiln rebuild %s %s", image,
		word, image, word)}
}

func rebuildRequest(name string, post api.InstanceRebuildPost) client.Request {
	return client.Request{Method: http.MethodPost, Path: instancePath(name) + "/rebuild", Body: post}
}

// rebuildStopped stops an instance that runs, rebuilds it and starts it again, for servers
// that rebuild only what is stopped.
func (a *app) rebuildStopped(ctx context.Context, i heldInstance, post api.InstanceRebuildPost) error {
	post.Force = false // a word that they don't know
	if name := orElse(post.Source.Alias, post.Source.Fingerprint); name != "" && post.Source.Server == "" {
		if _, _, err := i.at.Images().Resolve(ctx, name); err != nil {
			return err
		}
	}
	if err := a.act(ctx, i.at, api.InstanceStatePut{Action: "stop", Force: true, Timeout: -1}); err != nil {
		return err
	}
	_, err := a.watch(ctx, i.at, rebuildRequest(i.Name, post))
	return errors.Join(err, a.act(ctx, i.at, api.InstanceStatePut{Action: "start", Timeout: -1}))
}
