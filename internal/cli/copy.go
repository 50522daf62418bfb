package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) renameCmd() *cobra.Command {
	return &cobra.Command{Use: "rename [<remote>:]<instance>[/<snapshot>] <new-name>",
		Short: "Rename a stopped instance, or a snapshot", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			from, err := a.At(args[0])
			if err != nil {
				return err
			}
			to, err := from.SameServer(args[1])
			if err != nil {
				return usageError{fmt.Errorf("%w; to move it there: kiln move %s %s", err, args[0], args[1])}
			}
			return a.rename(c.Context(), from, to)
		}}
}

// rename gives an instance or a snapshot another name, where it is.
func (a *app) rename(ctx context.Context, from, to place.Place) error {
	if instance, snap, ok := strings.Cut(from.Name, "/"); ok {
		return renameSnapshot(ctx, from, snapshotPath(instance, snap), strings.TrimPrefix(to.Name, instance+"/"))
	}
	err := from.Change(ctx, http.MethodPost, instancePath(from.Name), api.Rename{Name: to.Name}, "")
	return a.suggest(ctx, from, err)
}

func renameSnapshot(ctx context.Context, at place.Place, path, to string) error {
	return at.Change(ctx, http.MethodPost, path, api.Rename{Name: to}, "")
}

// copyFlags are what can be said of a copy.
type copyFlags struct {
	only, noProfiles, ephemeral, refresh bool
	hostAccess                           bool
	move                                 bool // to delete the instance that is copied after that
	config, devices, profiles            []string
	pool, project                        string
	mode                                 *string
}

func newCopyFlags(c *cobra.Command) *copyFlags {
	o, f := &copyFlags{}, c.Flags()
	f.BoolVar(&o.only, "instance-only", false, "without the snapshots")
	f.StringArrayVarP(&o.config, "config", "c", nil, "configuration key=value of the copy (repeatable)")
	f.StringArrayVarP(&o.devices, "device", "d", nil, "device name,key=value[,key=value...] of the copy (repeatable)")
	f.StringArrayVarP(&o.profiles, "profile", "p", nil, "profile of the copy (repeatable)")
	f.BoolVar(&o.noProfiles, "no-profiles", false, "apply no profile")
	f.BoolVar(&o.hostAccess, "host-access", false,
		"between servers: keep privileges, raw configuration and disks of the host, too")
	f.BoolVarP(&o.ephemeral, "ephemeral", "e", false, "delete the copy when it stops")
	f.StringVar(&o.project, "target-project", "", "project on the target")
	f.StringVarP(&o.pool, "storage", "s", "", "storage pool")
	f.BoolVar(&o.refresh, "refresh", false, "bring a copy up to date")
	f.Bool("stateless", false, "without the memory, which kiln never copies")
	f.Bool("allow-inconsistent", false, "accepted: kiln copies a running instance as it is at one moment")
	for _, name := range []string{"refresh", "stateless", "storage", "allow-inconsistent"} { // lxc has them
		_ = f.MarkHidden(name)
	}
	o.mode = choiceFlag(c, "mode", "", auto, "between servers, pull has the target fetch it, relay goes "+
		"through this client",
		auto, pull, push, relay)
	return o
}

// check says at once what can't be.
func (o *copyFlags) check() error {
	if o.refresh {
		return kiln.Errorf(kiln.Unsupported, "--refresh is not supported by this version of kiln; delete the copy and "+
			"make it again, which moves only what differs from the image")
	}
	return nil
}

// into gives the place where the copy goes: in another project, it has its old name unless
// another one is given.
func (o *copyFlags) into(a *app, from, to place.Place) place.Place {
	if o.project == "" {
		return to
	}
	name, _, _ := strings.Cut(from.Name, "/")
	return a.InProject(to.At(cmp.Or(to.Name, name)), o.project)
}

// request is what the target is told of a copy.
func (o *copyFlags) request(ctx context.Context, from, to place.Place) (api.InstancesPost, error) {
	post := api.InstancesPost{Name: to.Name, Source: api.InstanceSource{Type: "copy", Source: from.Name,
		InstanceOnly: o.only, HostAccess: o.hostAccess}}
	if len(o.config) > 0 || len(o.devices) > 0 || o.pool != "" {
		if err := describeCopy(ctx, &post, from, o.config, o.devices, o.pool); err != nil {
			return post, err
		}
		if name := theirDisk(post.Devices, o.devices); name != "" && from.Remote != to.Remote && !o.hostAccess {
			return post, kiln.Errorf(kiln.Denied, "the device %q, which the server %q says the instance has, would show it "+
				"%s of the target; to want that, say so: --host-access", name, from.Remote, post.Devices[name]["source"])
		}
	}
	if o.move && from.Remote != to.Remote { // it is the same one there
		var was struct{ Config map[string]string }
		if _, err := from.Get(ctx, pathOf(from.Name), nil, &was); err != nil {
			return post, fmt.Errorf("read what to move: %w", err)
		}
		if post.Config == nil {
			post.Config = map[string]string{}
		}
		for k, v := range instance.Addresses(was.Config) {
			if _, ok := post.Config[k]; !ok {
				post.Config[k] = v
			}
		}
	}
	if o.project != "" && from.Remote == to.Remote {
		post.Source.Project = cmp.Or(from.Project(), "default")
	}
	post.Profiles = o.chosenProfiles()
	post.Ephemeral = o.ephemeral
	return post, nil
}

// chosenProfiles gives the profiles that were asked for; nil: those of what is copied.
func (o *copyFlags) chosenProfiles() []string {
	if o.noProfiles {
		return []string{}
	}
	return o.profiles
}

func (a *app) copyCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "copy [<remote>:]<instance>[/<snapshot>] [[<remote>:]<new-name>]",
		Short: "Copy an instance with its snapshots, or create an instance from a snapshot", Args: cobra.RangeArgs(1, 2),
		Long: "Copy an instance with its snapshots, or create an instance from a snapshot, also on another server. " +
			"A running instance keeps running. Between servers, the image is transferred if the target doesn't have it, and " +
			"what was changed since; to and from LXD and Incus, all files.",
	}
	o := newCopyFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		from, to, err := a.Pair(args)
		if err != nil {
			return err
		}
		to = o.into(a, from, to)
		if from.Remote != to.Remote {
			_, err := a.copyAcross(c.Context(), from, to, o)
			return err
		}
		post, err := o.request(c.Context(), from, to)
		if err != nil {
			return err
		}
		_, err = a.create(c.Context(), to, post)
		if strings.Contains(from.Name, "/") {
			return err
		}
		return a.suggest(c.Context(), from, err)
	}
	return c
}

func (a *app) moveCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "move [<remote>:]<instance>[/<snapshot>] [[<remote>:]<new-name>]",
		Short: "Rename an instance, or move it to another server or project", Args: cobra.RangeArgs(1, 2),
		Long: "Rename an instance or a snapshot, or move an instance with its snapshots to another server, where it is " +
			"copied to and then deleted here, or to another project. It must be stopped.",
	}
	o := newCopyFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if len(args) == 1 && o.project == "" {
			return usageError{errors.New("say where to: a new name, a server as in srv:, or --target-project")}
		}
		from, to, err := a.Pair(args)
		if err != nil {
			return err
		}
		to = o.into(a, from, to)
		if from.Remote != to.Remote {
			return a.moveAcross(c.Context(), from, to, o)
		}
		changed := ""
		c.Flags().Visit(func(f *flag) {
			ofProject := o.project != "" && slices.Contains([]string{"target-project", "profile", "no-profiles"}, f.Name)
			if c.InheritedFlags().Lookup(f.Name) == nil && f.Name != "mode" &&
				f.Name != "stateless" && f.Name != "allow-inconsistent" && !ofProject {
				changed = f.Name
			}
		})
		if changed != "" {
			return usageError{fmt.Errorf("--%s is for moving to another server; on the same one: kiln rename, kiln config",
				changed)}
		}
		if o.project != "" {
			if strings.Contains(from.Name, "/") {
				return usageError{fmt.Errorf("a snapshot stays with its instance; to make an instance of it there: kiln copy %s "+
					"--target-project %s", args[0], o.project)}
			}
			err := from.Change(c.Context(), http.MethodPost, instancePath(from.Name),
				api.Rename{Name: to.Name, Migration: true, Project: o.project, Profiles: o.chosenProfiles()}, "")
			return a.suggest(c.Context(), from, err)
		}
		return a.rename(c.Context(), from, to)
	}
	return c
}

// theirDisk finds a directory of the host among devices that the user didn't name; ""
// for none.
func theirDisk(devices map[string]map[string]string, named []string) string {
	for name, d := range devices {
		if d["source"] != "" && !slices.ContainsFunc(named, func(s string) bool { return strings.HasPrefix(s, name+",") }) {
			return name
		}
	}
	return ""
}

// describeCopy lays flags over the devices of what is copied: a request that has
// devices has all of them.
func describeCopy(ctx context.Context, post *api.InstancesPost, from place.Place, config, devices []string,
	pool string) error {
	if len(devices) > 0 || pool != "" {
		var src struct{ Devices map[string]map[string]string }
		if _, err := from.Get(ctx, pathOf(from.Name), nil, &src); err != nil {
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
