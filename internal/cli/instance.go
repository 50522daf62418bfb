package cli

import (
	"context"
	"fmt"
	"io"
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
		if o.empty {
			post.Source = api.InstanceSource{Type: "none"}
		} else if post.Source, err = a.InstanceSource(c.Context(), args[0], at, o.offline); err != nil {
			return err
		}
		post.Start = verb == "launch"
		return a.create(c.Context(), at, post)
	}
	return c
}

// createFlags are what can be said of a new instance.
type createFlags struct {
	config, devices, profiles             []string
	noProfiles, ephemeral, empty, offline bool
	description, pool, typ                string
	refused                               map[string]*string // by name: what kiln hasn't got
	vm                                    bool
}

func newCreateFlags(c *cobra.Command) *createFlags {
	o, f := &createFlags{refused: map[string]*string{}}, c.Flags()
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
	o.refused["network"] = f.StringP("network", "n", "", "")
	o.refused["target"] = f.String("target", "", "")
	f.BoolVar(&o.vm, "vm", false, "")
	for _, name := range []string{"network", "target", "vm", "storage"} { // lxc has them
		_ = f.MarkHidden(name)
	}
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
	switch {
	case o.vm || o.typ == "virtual-machine":
		return post, kiln.Errorf(kiln.Unsupported, "kiln runs system containers, not virtual machines")
	case *o.refused["network"] != "":
		return post, kiln.Errorf(kiln.Unsupported, "networks are not supported by this version of kiln; leave --network out")
	case *o.refused["target"] != "":
		return post, kiln.Errorf(kiln.Unsupported, "kiln has no clusters; name the server before the instance, as in "+
			"<remote>:<instance>, and leave --target out")
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

func (a *app) create(ctx context.Context, at place.Place, post api.InstancesPost) error {
	what := "Creating"
	if post.Start {
		what = "Launching"
	}
	if post.Name != "" {
		a.say("%s %s", what, post.Name)
	} else {
		a.say("%s the instance", what)
	}
	op, err := a.watch(ctx, at, client.Request{Method: http.MethodPost, Path: "/1.0/instances", Body: post})
	if err != nil {
		return err
	}
	if post.Name == "" {
		a.say("Instance name is: %s", path.Base(op.Resources["instances"][0]))
	}
	return nil
}

func instancePath(name string) string { return client.Path("/1.0/instances", name) }

// A heldInstance is an instance as it was when it was read, and where.
type heldInstance struct {
	api.Instance
	at  place.Place
	tag string
}

func (a *app) instance(ctx context.Context, word string) (i heldInstance, err error) {
	if i.at, err = a.At(word); err != nil {
		return i, err
	}
	i.tag, err = i.at.Get(ctx, instancePath(i.at.Name), nil, &i.Instance)
	return i, a.suggest(ctx, i.at, err)
}

// save writes what can be changed of an instance.
func (i heldInstance) save(ctx context.Context) error {
	return i.at.Change(ctx, http.MethodPut, instancePath(i.Name), i.InstancePut, i.tag)
}

// suggest is missing for instances.
func (a *app) suggest(ctx context.Context, at place.Place, err error) error {
	at.Name, _, _ = at.Snapshot()
	return a.missing(ctx, at, "instance", err)
}

func (a *app) listCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list [<remote>:] [<filter>...]", Aliases: []string{"ls"}, Short: "List instances",
		Long: "List instances. A filter is a part of a name, or key=value: a field (status, architecture, type …) or a " +
			"configuration key.",
	}
	letters := columnsFlag(c, "ns46tS", instanceColumns(), "; KEY, config:KEY or devices:DEVICE.KEY[:TITLE[:WIDTH]]: a "+
		"configuration key")
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, words []string) error {
		columns, err := choose(instanceColumns(), *letters, instanceKey)
		if err != nil {
			return err
		}
		if err := checkFilters(words); err != nil {
			return err
		}
		at, words, err := a.Server(words)
		if err != nil {
			return err
		}
		all, err := client.List[api.InstanceFull](c.Context(), at.Client, "/1.0/instances", 2)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(columns, func(c column[api.InstanceFull]) bool { return c.letter == 'o' }) {
			newer, err := newerImages(c.Context(), at.Client)
			if err != nil {
				return err
			}
			columns = withNewer(columns, newer)
		}
		return show(a, *form, columns, slices.DeleteFunc(all, func(i api.InstanceFull) bool {
			return slices.ContainsFunc(words, func(w string) bool { return !instanceMatches(i, w) })
		}))
	}
	return c
}

// instanceKey is a column with a key of the configuration or of a device.
func instanceKey(kind, key string) func(api.InstanceFull) string {
	switch kind {
	case "properties":
		return nil
	case "devices":
		device, key, _ := strings.Cut(key, ".")
		return func(i api.InstanceFull) string { return i.ExpandedDevices[device][key] }
	}
	return func(i api.InstanceFull) string { return i.ExpandedConfig[key] }
}

// instanceFields are the fields of instances that filters know, besides keys of the
// configuration, which all have a dot.
func instanceFields() map[string]func(api.InstanceFull) []string {
	one := func(get func(api.InstanceFull) string) func(api.InstanceFull) []string {
		return func(i api.InstanceFull) []string { return []string{get(i)} }
	}
	status := one(func(i api.InstanceFull) string { return i.Status })
	return map[string]func(api.InstanceFull) []string{
		"name": one(func(i api.InstanceFull) string { return i.Name }), "status": status, "state": status,
		"type":         one(func(i api.InstanceFull) string { return i.Type }),
		"architecture": one(func(i api.InstanceFull) string { return i.Architecture }),
		"description":  one(func(i api.InstanceFull) string { return i.Description }),
		"project":      one(func(i api.InstanceFull) string { return i.Project }),
		"ephemeral":    func(i api.InstanceFull) []string { return []string{fmt.Sprint(i.Ephemeral), yesNo(i.Ephemeral)} },
		"profiles":     func(i api.InstanceFull) []string { return i.Profiles },
	}
}

// checkFilters refuses filters by a field that instances don't have.
func checkFilters(words []string) error {
	known := slices.Sorted(maps.Keys(instanceFields()))
	for _, w := range words {
		key, _, ok := strings.Cut(w, "=")
		if ok && !strings.Contains(key, ".") && !slices.Contains(known, key) {
			return usageError{fmt.Errorf("unknown field %q%s; a filter is part of a name, <field>=<value> with %s, or "+
				"<configuration key>=<value>", key, kiln.DidYouMean(key, known), alternatives(known))}
		}
	}
	return nil
}

func instanceMatches(i api.InstanceFull, word string) bool {
	key, value, ok := strings.Cut(word, "=")
	if !ok {
		return strings.Contains(i.Name, word) || fits(i.Name, word)
	}
	if get, ok := instanceFields()[key]; ok {
		return slices.ContainsFunc(get(i), func(v string) bool {
			return fits(v, value) || key == "architecture" && sameArch(v, value)
		})
	}
	for k, v := range i.ExpandedConfig {
		if keyFits(k, strings.TrimPrefix(key, "config.")) && fits(v, value) {
			return true
		}
	}
	return false
}

func instanceColumns() []column[api.InstanceFull] {
	type full = api.InstanceFull
	addresses := func(family string) func(full) []string {
		return func(i full) []string {
			var list []string
			for name, n := range i.State.Network {
				for _, a := range n.Addresses {
					if a.Family == family && a.Scope == "global" {
						list = append(list, fmt.Sprintf("%s (%s)", a.Address, name))
					}
				}
			}
			slices.Sort(list)
			return list
		}
	}
	number := func(get func(full) int64) func(full) string {
		return func(i full) string {
			if n := get(i); n > 0 {
				return fmt.Sprint(n)
			}
			return ""
		}
	}
	bytes := func(get func(full) int64) func(full) string {
		return func(i full) string {
			if n := get(i); n > 0 {
				return size(n)
			}
			return ""
		}
	}
	return []column[full]{
		col('n', "NAME", func(i full) string { return i.Name }),
		col('s', "STATE", func(i full) string { return strings.ToUpper(i.Status) }),
		colList('4', "IPV4", addresses("inet")),
		colList('6', "IPV6", addresses("inet6")),
		col('t', "TYPE", func(i full) string { return strings.ToUpper(i.Type) }),
		col('S', "SNAPSHOTS", func(i full) string { return fmt.Sprint(len(i.Snapshots)) }),
		col('L', "LOCATION", func(i full) string { return i.Location }),
		col('a', "ARCHITECTURE", func(i full) string { return i.Architecture }),
		col('b', "STORAGE POOL", func(full) string { return "default" }),
		col('c', "CREATED AT", func(i full) string { return minute(i.CreatedAt) }),
		col('d', "DESCRIPTION", func(i full) string { return i.Description }),
		col('D', "DISK USAGE", bytes(func(i full) int64 { return i.State.Disk["root"].Usage })),
		col('e', "PROJECT", func(i full) string { return i.Project }),
		col('f', "BASE IMAGE", func(i full) string { fp := i.Config["volatile.base_image"]; return short(fp) }),
		col('F', "BASE IMAGE", func(i full) string { return i.Config["volatile.base_image"] }),
		col('l', "LAST USED AT", func(i full) string { return minute(i.LastUsedAt) }),
		col('m', "MEMORY USAGE", bytes(func(i full) int64 { return i.State.Memory.Usage })),
		col('N', "PROCESSES", number(func(i full) int64 { return i.State.Processes })),
		col('o', "NEWER IMAGE", func(full) string { return "" }), // withNewer knows
		col('p', "PID", number(func(i full) int64 { return i.State.PID })),
		colList('P', "PROFILES", func(i full) []string { return i.Profiles }),
		col('u', "CPU USAGE", func(i full) string { return fmt.Sprintf("%ds", i.State.CPU.Usage/1e9) }),
	}
}

func (a *app) infoCmd() *cobra.Command {
	c := &cobra.Command{Use: "info [[<remote>:]<instance>]", Short: "Show details of an instance or of a server",
		Args: cobra.MaximumNArgs(1)}
	log := c.Flags().Bool("show-log", false, "also show the log of its last start")
	form := objectFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 || strings.HasSuffix(args[0], ":") {
			at, _, err := a.Server(args)
			if err != nil {
				return err
			}
			var s api.Server
			if _, err := at.Get(c.Context(), "/1.0", nil, &s); err != nil {
				return err
			}
			if *form == "text" {
				return a.yaml(s)
			}
			_, err = a.object(*form, s)
			return err
		}
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		var st api.InstanceState
		if _, err := i.at.Get(c.Context(), instancePath(i.Name)+"/state", nil, &st); err != nil {
			return err
		}
		if done, err := a.object(*form, api.InstanceFull{Instance: i.Instance, State: &st}); done {
			return err
		}
		a.printInfo(i.Instance, st)
		if err := a.printSnapshots(c.Context(), i.at); err != nil {
			return err
		}
		if *log {
			a.print("\nLog:\n")
			return a.log(c.Context(), i.at, instancePath(i.Name)+"/logs/lxc.log")
		}
		return nil
	}
	return c
}

func (a *app) printInfo(i api.Instance, st api.InstanceState) {
	p := a.print
	p("Name: %s\nStatus: %s\nType: %s\nArchitecture: %s", i.Name, strings.ToUpper(i.Status), i.Type, i.Architecture)
	if i.Description != "" {
		p("Description: %s", i.Description)
	}
	if st.PID > 0 {
		p("PID: %d", st.PID)
	}
	p("Created: %s\nLast Used: %s", minute(i.CreatedAt), minute(i.LastUsedAt))
	if fp := i.Config["volatile.base_image"]; fp != "" {
		p("Base image: %s", fp)
	}
	p("\nResources:\n  Disk usage: %s", size(st.Disk["root"].Usage))
	if st.PID == 0 {
		return
	}
	p("  Processes: %d\n  CPU usage: %ds\n  Memory usage: %s (peak %s)", st.Processes, st.CPU.Usage/1e9,
		size(st.Memory.Usage), size(st.Memory.UsagePeak))
	for name, n := range st.Network {
		p("  Network %s: %s, %s received, %s sent", name, n.State, size(n.Counters.BytesReceived), size(n.Counters.BytesSent))
		for _, ad := range n.Addresses {
			p("    %s/%s (%s)", ad.Address, ad.Netmask, ad.Scope)
		}
	}
}

// log copies a log of an instance.
func (a *app) log(ctx context.Context, at place.Place, path string) error {
	resp, err := at.Raw(ctx, client.Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return kiln.Errorf(kiln.NotFound, "there is no such log")
	}
	w := a.data()
	defer flush(w)
	_, err = io.Copy(w, resp.Body)
	return err
}

func (a *app) consoleCmd() *cobra.Command {
	c := &cobra.Command{Use: "console [<remote>:]<instance> --show-log",
		Short: "Show the console log of an instance", Args: cobra.ExactArgs(1)}
	show := c.Flags().Bool("show-log", false, "show the log of the console")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*show {
			return kiln.Errorf(kiln.Unsupported, "attaching to a console is not supported by this version of kiln; see its "+
				"log with --show-log, or get a shell with: kiln exec %s -- sh", args[0])
		}
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.log(c.Context(), i.at, instancePath(i.Name)+"/console")
	}
	return c
}

// actionCmd makes the verbs that change the state of instances.
func (a *app) actionCmd(verb, action string) *cobra.Command {
	c := &cobra.Command{Use: verb + " [<remote>:]<instance>...",
		Short: strings.ToUpper(verb[:1]) + verb[1:] + " instances"}
	all := c.Flags().Bool("all", false, "all instances")
	force, timeout := new(bool), new(int)
	*timeout = -1
	if verb == "stop" || verb == "restart" {
		c.Flags().BoolVarP(force, "force", "f", false, "kill the processes instead of asking them to stop")
		c.Flags().IntVar(timeout, "timeout", -1, "seconds to wait for a clean stop; -1: as the instance says")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all {
			at, _, err := a.Server(args)
			if err != nil {
				return err
			}
			list, err := client.List[api.Instance](c.Context(), at.Client, "/1.0/instances", 1)
			if err != nil {
				return err
			}
			args = nil
			for _, i := range list {
				if (i.Status == "Stopped") == (verb == "start") {
					args = append(args, at.Remote+":"+i.Name)
				}
			}
		} else if len(args) == 0 {
			return usageError{fmt.Errorf("missing argument: <instance>; usage: %s", c.UseLine())}
		}
		return each(args, func(word string) error {
			at, err := a.At(word)
			if err != nil {
				return err
			}
			return a.act(c.Context(), at, api.InstanceStatePut{Action: action, Force: *force, Timeout: *timeout})
		})
	}
	return c
}

func (a *app) act(ctx context.Context, at place.Place, put api.InstanceStatePut) error {
	err := at.Change(ctx, http.MethodPut, instancePath(at.Name)+"/state", put, "")
	return a.suggest(ctx, at, err)
}

func (a *app) deleteCmd() *cobra.Command {
	c := &cobra.Command{Use: "delete [<remote>:]<instance>[/<snapshot>]...", Aliases: []string{"rm"},
		Short: "Delete instances and snapshots", Args: cobra.MinimumNArgs(1)}
	force := c.Flags().BoolP("force", "f", false, "also instances that run")
	c.RunE = func(c *cobra.Command, args []string) error {
		return each(args, func(word string) error {
			if strings.Contains(word, "/") {
				return a.deleteSnapshot(c.Context(), word)
			}
			i, err := a.instance(c.Context(), word)
			if err != nil {
				return err
			}
			if i.Status != "Stopped" {
				if !*force {
					return kiln.Errorf(kiln.Conflict, "The instance %q is currently running, stop it first or pass --force", i.Name)
				}
				if err := a.act(c.Context(), i.at, api.InstanceStatePut{Action: "stop", Force: true, Timeout: -1}); err != nil {
					return err
				}
				if i.Ephemeral {
					return nil // it went with that
				}
			}
			return i.at.Change(c.Context(), http.MethodDelete, instancePath(i.Name), nil, "")
		})
	}
	return c
}
