package cli

import (
	"context"
	"fmt"
	"io"
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
	short := map[string]string{"init": "Make an instance from an image",
		"launch": "Make an instance from an image and start it"}[verb]
	c := &cobra.Command{
		Use: verb + " [<remote>:]<image> [<name>]", Short: short, Args: cobra.RangeArgs(0, 2),
		ValidArgsFunction: a.completeImages,
		Long:              short + ". A configuration in YAML can come on standard input.",
	}
	if verb == "init" {
		c.Aliases = []string{"create"}
	}
	f := c.Flags()
	config := f.StringArrayP("config", "c", nil, "configuration key=value (repeatable)")
	devices := f.StringArrayP("device", "d", nil, "device name,key=value[,key=value...] (repeatable)")
	profiles := f.StringArrayP("profile", "p", nil, "profile (repeatable)")
	noProfiles := f.Bool("no-profiles", false, "without any profile")
	ephemeral := f.BoolP("ephemeral", "e", false, "delete the instance when it stops")
	empty := f.Bool("empty", false, "without an image")
	description := f.String("description", "", "what it is for")
	network := f.StringP("network", "n", "", "network to connect to")
	pool := f.StringP("storage", "s", "", "storage pool")
	typ := f.StringP("type", "t", "", "type of instance")
	f.String("target", "", "member of a cluster")
	vm := f.Bool("vm", false, "a virtual machine")
	offline := f.Bool("offline", false, "make do with the images that are here; ask no server")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *empty {
			args = append([]string{""}, args...)
		}
		if len(args) == 0 {
			return usageError{fmt.Errorf("say which image to use; usage: %s", c.UseLine())}
		}
		if *vm {
			return kiln.Errorf(kiln.Unsupported, "kiln runs system containers, not virtual machines")
		}
		if *network != "" {
			return kiln.Errorf(kiln.Unsupported, "networks are not supported by this version of kiln")
		}
		var post api.InstancesPost
		if !terminal(a.In) {
			b, err := io.ReadAll(a.In)
			if err != nil {
				return err
			}
			if post.InstancePut, err = parseYAML[api.InstancePut](b); err != nil {
				return err
			}
		}
		if err := describe(&post.InstancePut, *config, *devices, *pool); err != nil {
			return err
		}
		switch {
		case *noProfiles:
			post.Profiles = []string{}
		case len(*profiles) > 0:
			post.Profiles = *profiles
		}
		post.Ephemeral = post.Ephemeral || *ephemeral
		post.Description, post.Type = *description, *typ
		at, err := a.At(strings.Join(args[1:], ""))
		if err != nil {
			return err
		}
		post.Name = at.Name
		if post.Source, err = a.InstanceSource(c.Context(), args[0], at, *offline); err != nil {
			return err
		}
		if *empty {
			post.Source = api.InstanceSource{Type: "none"}
		}
		post.Start = verb == "launch"
		return a.create(c.Context(), at, post)
	}
	return c
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

// suggest adds the name that was probably meant to an error about an instance that
// isn't there. An error about something else stays what it is.
func (a *app) suggest(ctx context.Context, at place.Place, err error) error {
	if err == nil || kiln.KindOf(err) != kiln.NotFound {
		return err
	}
	all, lerr := client.List[api.Instance](ctx, at.Client, "/1.0/instances", 1)
	if lerr != nil {
		return err
	}
	name, _, _ := at.Snapshot()
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	if slices.Contains(names, name) {
		return err
	}
	return place.Missing("instance", name, names)
}

func (a *app) listCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list [<remote>:] [<filter>...]", Aliases: []string{"ls"}, Short: "List instances",
		Long: "List instances. A filter is a part of a name, or key=value: a field (status, architecture, type …) or a " +
			"configuration key.",
	}
	letters := c.Flags().StringP("columns", "c", "ns46tS", "columns: n name, s state, 4 IPv4, 6 IPv6, t type, S "+
		"snapshots, L location, a architecture, b pool, c created, o newer image, d description, D disk usage, e project, "+
		"f/F base image, l last used, m memory usage, N processes, p pid, P profiles, u cpu usage")
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, words []string) error {
		columns, err := choose(instanceColumns(), *letters)
		if err != nil {
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
		if strings.ContainsRune(*letters, 'o') {
			newer, err := newerImages(c.Context(), at.Client)
			if err != nil {
				return err
			}
			columns = withNewer(columns, newer)
		}
		return show(a.Out, *form, columns, slices.DeleteFunc(all, func(i api.InstanceFull) bool {
			return slices.ContainsFunc(words, func(w string) bool { return !instanceMatches(i, w) })
		}))
	}
	return c
}

func instanceMatches(i api.InstanceFull, word string) bool {
	key, value, ok := strings.Cut(word, "=")
	if !ok {
		return strings.Contains(i.Name, word) || fits(i.Name, word)
	}
	switch key {
	case "name":
		return fits(i.Name, value)
	case "status", "state":
		return fits(i.Status, value)
	case "type":
		return fits(i.Type, value)
	case "architecture":
		return fits(i.Architecture, value) || sameArch(i.Architecture, value)
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
	addresses := func(family string) func(full) string {
		return func(i full) string {
			var list []string
			for name, n := range i.State.Network {
				for _, a := range n.Addresses {
					if a.Family == family && a.Scope == "global" {
						list = append(list, fmt.Sprintf("%s (%s)", a.Address, name))
					}
				}
			}
			slices.Sort(list)
			return strings.Join(list, "\n")
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
		{'n', "NAME", func(i full) string { return i.Name }},
		{'s', "STATE", func(i full) string { return strings.ToUpper(i.Status) }},
		{'4', "IPV4", addresses("inet")},
		{'6', "IPV6", addresses("inet6")},
		{'t', "TYPE", func(i full) string { return strings.ToUpper(i.Type) }},
		{'S', "SNAPSHOTS", func(i full) string { return fmt.Sprint(len(i.Snapshots)) }},
		{'L', "LOCATION", func(i full) string { return i.Location }},
		{'a', "ARCHITECTURE", func(i full) string { return i.Architecture }},
		{'b', "STORAGE POOL", func(full) string { return "default" }},
		{'c', "CREATED AT", func(i full) string { return minute(i.CreatedAt) }},
		{'d', "DESCRIPTION", func(i full) string { return i.Description }},
		{'D', "DISK USAGE", bytes(func(i full) int64 { return i.State.Disk["root"].Usage })},
		{'e', "PROJECT", func(i full) string { return i.Project }},
		{'f', "BASE IMAGE", func(i full) string { fp := i.Config["volatile.base_image"]; return fp[:min(12, len(fp))] }},
		{'F', "BASE IMAGE", func(i full) string { return i.Config["volatile.base_image"] }},
		{'l', "LAST USED AT", func(i full) string { return minute(i.LastUsedAt) }},
		{'m', "MEMORY USAGE", bytes(func(i full) int64 { return i.State.Memory.Usage })},
		{'N', "PROCESSES", number(func(i full) int64 { return i.State.Processes })},
		{'o', "NEWER IMAGE", func(full) string { return "" }}, // withNewer knows
		{'p', "PID", number(func(i full) int64 { return i.State.PID })},
		{'P', "PROFILES", func(i full) string { return strings.Join(i.Profiles, "\n") }},
		{'u', "CPU USAGE", func(i full) string { return fmt.Sprintf("%ds", i.State.CPU.Usage/1e9) }},
	}
}

func (a *app) infoCmd() *cobra.Command {
	c := &cobra.Command{Use: "info [[<remote>:]<instance>]", Short: "Tell what is known of an instance, or of the server",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeInstances}
	log := c.Flags().Bool("show-log", false, "also the log of its last start")
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
			return writeYAML(a.Out, s)
		}
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		var st api.InstanceState
		if _, err := i.at.Get(c.Context(), instancePath(i.Name)+"/state", nil, &st); err != nil {
			return err
		}
		a.printInfo(i.Instance, st)
		if err := a.printSnapshots(c.Context(), i.at); err != nil {
			return err
		}
		if *log {
			fmt.Fprintf(a.Out, "\nLog:\n\n")
			return a.log(c.Context(), i.at, instancePath(i.Name)+"/logs/lxc.log")
		}
		return nil
	}
	return c
}

func (a *app) printInfo(i api.Instance, st api.InstanceState) {
	p := func(format string, args ...any) { fmt.Fprintf(a.Out, format+"\n", args...) }
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
	_, err = io.Copy(a.Out, resp.Body)
	return err
}

func (a *app) consoleCmd() *cobra.Command {
	c := &cobra.Command{Use: "console [<remote>:]<instance> --show-log",
		Short: "Show what an instance wrote on its console", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeInstances}
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
		Short: strings.ToUpper(verb[:1]) + verb[1:] + " instances", ValidArgsFunction: a.completeInstances}
	all := c.Flags().Bool("all", false, "all instances")
	force, timeout := new(bool), new(int)
	*timeout = -1
	if verb == "stop" || verb == "restart" {
		c.Flags().BoolVarP(force, "force", "f", false, "kill it")
		c.Flags().IntVar(timeout, "timeout", -1, "seconds that a clean stop may take")
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
			return usageError{fmt.Errorf("say which instances; usage: %s", c.UseLine())}
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
		Short: "Delete instances and snapshots", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeInstances}
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
