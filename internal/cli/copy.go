package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func (a *app) renameCmd() *cobra.Command {
	return &cobra.Command{Use: "rename [<remote>:]<instance>[/<snapshot>] <new name>", Aliases: []string{"move", "mv"}, Short: "Rename an instance that is stopped, or a snapshot", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeInstances,
		RunE: func(c *cobra.Command, args []string) error {
			from, to, err := a.both(args)
			if err != nil {
				return err
			}
			if instance, snap, ok := strings.Cut(from.name, "/"); ok {
				return renameSnapshot(c.Context(), from, snapshotPath(instance, snap), strings.TrimPrefix(to.name, instance+"/"))
			}
			err = from.Change(c.Context(), http.MethodPost, instancePath(from.name), api.Rename{Name: to.name}, "")
			return a.suggest(c.Context(), from, err)
		}}
}

func renameSnapshot(ctx context.Context, at place, path, to string) error {
	return at.Change(ctx, http.MethodPost, path, api.Rename{Name: to}, "")
}

func (a *app) copyCmd() *cobra.Command {
	c := &cobra.Command{Use: "copy [<remote>:]<instance>[/<snapshot>] [<new name>]", Aliases: []string{"cp"}, Short: "Copy an instance with its snapshots, or make an instance of a snapshot", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeInstances}
	f := c.Flags()
	only := f.Bool("instance-only", false, "without the snapshots")
	config := f.StringArrayP("config", "c", nil, "configuration key=value of the copy (repeatable)")
	devices := f.StringArrayP("device", "d", nil, "device name,key=value[,key=value...] of the copy (repeatable)")
	profiles := f.StringArrayP("profile", "p", nil, "profile of the copy (repeatable)")
	noProfiles := f.Bool("no-profiles", false, "without any profile")
	ephemeral := f.BoolP("ephemeral", "e", false, "delete the copy when it stops")
	pool := f.StringP("storage", "s", "", "storage pool")
	refresh := f.Bool("refresh", false, "bring a copy up to date")
	f.Bool("stateless", false, "without the memory, which kiln never copies")
	f.String("mode", "pull", "how servers talk to one another")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *refresh {
			return kiln.Errorf(kiln.Unsupported, "--refresh is not supported by this version of kiln; delete the copy and make it again, which copies nothing on the same server")
		}
		from, to, err := a.both(args)
		if err != nil {
			return err
		}
		post := api.InstancesPost{Name: to.name, Source: api.InstanceSource{Type: "copy", Source: from.name, InstanceOnly: *only}}
		if len(*config) > 0 || len(*devices) > 0 || *pool != "" {
			if err := describeCopy(c.Context(), &post, from, *config, *devices, *pool); err != nil {
				return err
			}
		}
		switch {
		case *noProfiles:
			post.Profiles = []string{}
		case len(*profiles) > 0:
			post.Profiles = *profiles
		}
		post.Ephemeral = *ephemeral
		err = a.create(c.Context(), to, post)
		if strings.Contains(from.name, "/") {
			return err
		}
		return a.suggest(c.Context(), from, err)
	}
	return c
}

// describeCopy lays flags over the devices of what is copied: a request that has
// devices has all of them.
func describeCopy(ctx context.Context, post *api.InstancesPost, from place, config, devices []string, pool string) error {
	if len(devices) > 0 || pool != "" {
		path := instancePath(from.name)
		if instance, snap, ok := strings.Cut(from.name, "/"); ok {
			path = snapshotPath(instance, snap)
		}
		var src struct{ Devices map[string]map[string]string }
		if _, err := from.Get(ctx, path, nil, &src); err != nil {
			return fmt.Errorf("read what to copy: %w", err)
		}
		post.Devices = src.Devices
	}
	if err := describe(&post.InstancePut, config, devices, pool); err != nil {
		return err
	}
	if len(devices) == 0 && pool == "" {
		post.Devices = nil
	}
	return nil
}
