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
			names, err := a.names(args)
			if err != nil {
				return err
			}
			if instance, snap, ok := strings.Cut(names[0], "/"); ok {
				to := strings.TrimPrefix(names[1], instance+"/")
				return a.renameSnapshot(c.Context(), instance, snap, to)
			}
			err = a.client().Change(c.Context(), http.MethodPost, instancePath(names[0]), api.Rename{Name: names[1]}, "")
			return a.suggest(c.Context(), names[0], err)
		}}
}

func (a *app) renameSnapshot(ctx context.Context, instance, snap, to string) error {
	return a.client().Change(ctx, http.MethodPost, snapshotPath(instance, snap), api.Rename{Name: to}, "")
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
		names, err := a.names(args)
		if err != nil {
			return err
		}
		post := api.InstancesPost{Source: api.InstanceSource{Type: "copy", Source: names[0], InstanceOnly: *only}}
		if len(*config) > 0 || len(*devices) > 0 || *pool != "" {
			if err := a.describeCopy(c.Context(), &post, names[0], *config, *devices, *pool); err != nil {
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
		if len(names) > 1 {
			post.Name = names[1]
		}
		err = a.create(c.Context(), post)
		if strings.Contains(names[0], "/") {
			return err
		}
		return a.suggest(c.Context(), names[0], err)
	}
	return c
}

// describeCopy lays flags over the devices of what is copied: a request that has
// devices has all of them.
func (a *app) describeCopy(ctx context.Context, post *api.InstancesPost, from string, config, devices []string, pool string) error {
	if len(devices) > 0 || pool != "" {
		path := instancePath(from)
		if instance, snap, ok := strings.Cut(from, "/"); ok {
			path = snapshotPath(instance, snap)
		}
		var src struct{ Devices map[string]map[string]string }
		if _, err := a.client().Get(ctx, path, nil, &src); err != nil {
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
