package cli

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// createCmd is init, and launch, which starts what it made.
func (a *app) createCmd(verb string) *cobra.Command {
	short := map[string]string{"init": "Create an instance from an image",
		"launch": "Create an instance from an image and start it"}[verb]
	c := &cobra.Command{
		Use: verb + " [<remote>:]<image> [<name>]", Short: short, Args: cobra.RangeArgs(0, 2),
		Long: short + ". A configuration is read from standard input, as YAML, if that isn't a terminal.",
	}
	if verb == "init" {
		c.Aliases = []string{"create"}
	}
	o := newCreateFlags(c)
	a.staleFlag(c)
	var console *string
	if verb == "launch" {
		console = consoleFlag(c)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.empty {
			args = append([]string{""}, args...)
		}
		if len(args) == 0 {
			return usageError{fmt.Errorf("missing argument: <image>; usage: %s", c.UseLine())}
		}
		if len(args) > 2 {
			return usageError{fmt.Errorf("with --empty there is no image; usage: %s", c.UseLine())}
		}
		post, err := o.request(a)
		if err != nil {
			return err
		}
		at, err := a.At(strings.Join(args[1:], ""))
		if err != nil {
			return err
		}
		post.Name = at.Name
		if err := inherit(c.Context(), at, &post); err != nil {
			return err
		}
		if o.empty {
			post.Source = api.InstanceSource{Type: "none"}
		} else if post.Source, err = a.InstanceSource(c.Context(), args[0], at, o.offline); err != nil {
			return err
		}
		post.Start = verb == "launch"
		name, err := a.create(c.Context(), at, post)
		if err != nil || console == nil || *console == "" {
			return err
		}
		return a.attach(c.Context(), at.At(name), api.InstanceConsolePost{Type: *console})
	}
	return c
}

// createFlags are what can be said of a new instance.
type createFlags struct {
	config, devices, profiles             []string
	noProfiles, ephemeral, empty, offline bool
	description, pool, typ, network       string
}

func newCreateFlags(c *cobra.Command) *createFlags {
	o, f := &createFlags{}, c.Flags()
	f.StringArrayVarP(&o.config, "config", "c", nil, "configuration key=value (repeatable)")
	f.StringArrayVarP(&o.devices, "device", "d", nil, "device name,key=value[,key=value...] (repeatable)")
	f.StringArrayVarP(&o.profiles, "profile", "p", nil, "profile to apply (repeatable)")
	f.BoolVar(&o.noProfiles, "no-profiles", false, "apply no profile")
	f.BoolVarP(&o.ephemeral, "ephemeral", "e", false, "delete the instance when it stops")
	f.BoolVar(&o.empty, "empty", false, "create an instance without an image")
	f.StringVar(&o.description, "description", "", "description of the instance")
	f.StringVarP(&o.typ, "type", "t", "", "limits by an instance type of the form c<CPUs>-m<GiB>, such as c2-m4")
	f.BoolVar(&o.offline, "offline", false, "use local images only; contact no server")
	f.StringVarP(&o.pool, "storage", "s", "", "storage pool")
	f.StringVarP(&o.network, "network", "n", "", "network to connect the interface eth0 to")
	_ = f.MarkHidden("storage") // lxc has it
	return o
}

// instanceYAML is what people write of a new instance.
type instanceYAML struct {
	api.InstancePut `yaml:",inline"`
	Type            string `yaml:"type,omitempty"`
}

// request is what the server is told of a new instance: a configuration on standard
// input, and over it the flags.
func (o *createFlags) request(a *app) (post api.InstancesPost, err error) {
	if o.typ == "virtual-machine" {
		return post, kiln.Errorf(kiln.Unsupported, "kiln runs system containers, not virtual machines")
	}
	if !terminal(a.In) {
		b, err := readYAML(a.In)
		if err != nil {
			return post, err
		}
		y, err := parseNew[instanceYAML](b)
		if err != nil {
			return post, err
		}
		if y.Type != "" && y.Type != "container" {
			return post, kiln.Errorf(kiln.Unsupported, "type %q: kiln runs system containers and nothing else", y.Type)
		}
		post.InstancePut = y.InstancePut
	}
	if err := describe(&post.InstancePut, o.config, o.devices, o.pool); err != nil {
		return post, err
	}
	if o.network != "" {
		post.Devices["eth0"] = map[string]string{"type": "nic", "name": "eth0", "network": o.network}
	}
	if o.typ != "container" {
		post.InstanceType = o.typ
	}
	switch {
	case o.noProfiles:
		post.Profiles = []string{}
	case len(o.profiles) > 0:
		post.Profiles = o.profiles
	}
	post.Ephemeral = post.Ephemeral || o.ephemeral
	post.Description = orElse(o.description, post.Description)
	return post, nil
}

// describe lays flags over a configuration.
func describe(put *api.InstancePut, config, devices []string, pool string) error {
	options, err := pairs(config)
	if err != nil {
		return err
	}
	if put.Config == nil {
		put.Config = map[string]string{}
	}
	for k, v := range options {
		put.Config[k] = v
	}
	if put.Devices == nil {
		put.Devices = map[string]map[string]string{}
	}
	for _, d := range devices {
		words := strings.Split(d, ",")
		keys, err := pairs(words[1:])
		if err != nil {
			return err
		}
		if put.Devices[words[0]] == nil {
			put.Devices[words[0]] = map[string]string{}
		}
		for k, v := range keys {
			put.Devices[words[0]][k] = v
		}
	}
	if pool != "" {
		put.Devices["root"] = map[string]string{"type": "disk", "path": "/", "pool": pool}
	}
	return nil
}

// inherit completes devices without a type by the profiles' devices of the same name: a
// user who says "-d root,size=1GiB" means the root disk that the profile gives.
func inherit(ctx context.Context, at place.Place, post *api.InstancesPost) error {
	profiles := post.Profiles
	if profiles == nil {
		profiles = []string{"default"}
	}
	var known []api.Profile
	for name, d := range post.Devices {
		if d["type"] != "" {
			continue
		}
		for _, p := range profiles {
			i := slices.IndexFunc(known, func(k api.Profile) bool { return k.Name == p })
			if i < 0 {
				var read api.Profile
				if _, err := at.Get(ctx, profilePath(p), nil, &read); err != nil {
					return err
				}
				i, known = len(known), append(known, read)
			}
			if from, ok := known[i].Devices[name]; ok {
				own := maps.Clone(from)
				maps.Copy(own, d)
				post.Devices[name] = own
			}
		}
	}
	return nil
}

// create has an instance made, and gives its name.
func (a *app) create(ctx context.Context, at place.Place, post api.InstancesPost) (name string, err error) {
	op, err := start(ctx, at, client.Request{Method: http.MethodPost, Path: "/1.0/instances", Body: post})
	if err != nil {
		return "", err
	}
	what := "Creating"
	if post.Start {
		what = "Launching"
	}
	if post.Name != "" {
		a.say("%s %s", what, post.Name)
	} else {
		a.say("%s the instance", what)
	}
	if op, err = a.await(ctx, at, op); err != nil {
		return "", err
	}
	if post.Name == "" {
		post.Name = path.Base(op.Resources["instances"][0])
		a.say("Instance name is: %s", post.Name)
	}
	return post.Name, nil
}
