package cli

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/place"
)

// How long a completion may take: at the default server, and at one that was named.
const (
	completeTime       = 300 * time.Millisecond
	completeRemoteTime = 2 * time.Second
)

// A slot is what an argument may be, by the usage of its command.
type slot struct {
	kinds  []string // "image", "instance", …, as in <image>
	server bool     // [<remote>:] alone
}

var slotKind = regexp.MustCompile(`<([a-z-]+)>`)

// slots reads the usage of a command. repeat says that the last may come again.
func slots(use string) (all []slot, repeat bool) {
	for _, w := range strings.Fields(use)[1:] {
		if w == "[flags]" || w == "[--]" || w == "|" || strings.HasPrefix(w, "--") {
			continue
		}
		repeat = strings.Contains(strings.ReplaceAll(w, ",<profile>...", ""), "...")
		var s slot
		named := strings.ReplaceAll(w, "[<remote>:]", "")
		for _, m := range slotKind.FindAllStringSubmatch(named, -1) {
			s.kinds = append(s.kinds, m[1])
		}
		s.server = named == ""
		all = append(all, s)
	}
	return all, repeat
}

// complete offers what the next argument of a command can be: by its usage, so that
// nothing is offered that the command doesn't take.
func (a *app) complete(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	all, repeat := slots(c.Use)
	// A server may come before the rest, or be left out.
	if len(all) > 0 && all[0].server {
		switch {
		case len(args) > 0 && place.IsServer(args[0]):
		case len(args) > 0 || len(all) > 1:
			all = all[1:]
		}
	}
	n := len(args)
	if n >= len(all) {
		if !repeat || len(all) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		n = len(all) - 1
	}
	if slices.ContainsFunc(all[n].kinds, isFile) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	limit := completeTime
	if strings.Contains(typed, ":") {
		limit = completeRemoteTime
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	a.Stale = true // in time is better than up to date
	words := a.candidates(ctx, c, all[n], args, typed)
	words = slices.DeleteFunc(words, func(w string) bool {
		return slices.Contains(args, w) || !strings.HasPrefix(w, typed)
	})
	slices.Sort(words)
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool { return !strings.HasSuffix(w, ":") }) &&
		c.Parent().Name() != "remote" {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return slices.Compact(words), directive
}

func isFile(kind string) bool {
	return slices.Contains([]string{"file", "directory", "rootfs", "certificate"}, kind)
}

// candidates gives the words for a slot. Errors are no words.
func (a *app) candidates(ctx context.Context, c *cobra.Command, s slot, args []string, typed string) []string {
	config, err := a.Config()
	if err != nil {
		return nil
	}
	if slices.Contains(s.kinds, "remote") && c.Parent().Name() == "remote" {
		return config.Names()
	}
	var words []string
	remote, _, named := strings.Cut(typed, ":")
	if !named && len(args) == 0 || slices.Contains(s.kinds, "remote") || s.server || slices.Contains(s.kinds, "new-name") {
		for _, n := range config.Names() {
			if !config.Remotes[n].Streams() || slices.Contains(s.kinds, "image") || c.Parent().Name() == "mirror" ||
				s.server && c.Parent().Name() == "image" {
				words = append(words, n+":")
			}
		}
	}
	if len(args) == 0 && strings.Contains(c.Use, "[[<remote>:]<instance>] <key>") {
		words = append(words, serverKeys()...) // without an instance, the server is meant
	}
	prefix := ""
	if named {
		prefix = remote + ":"
	}
	for _, kind := range s.kinds {
		for _, w := range a.names(ctx, c, kind, prefix, args, typed) {
			words = append(words, prefix+w)
		}
	}
	return words
}

// names gives the names of the things of a kind on a server.
func (a *app) names(ctx context.Context, c *cobra.Command, kind, server string, args []string, typed string) []string {
	switch kind {
	case "image", "base":
		return append(a.aliasNames(ctx, server), a.unnamed(ctx, server)...)
	case "alias":
		return a.aliasNames(ctx, server)
	case "key":
		return a.configKeys(ctx, c, args)
	case "key-name":
		if keys, err := a.keys(); err == nil {
			return keys.Names()
		}
		return nil
	case "device":
		if c.Parent().Name() == "volume" {
			return a.volumeDevices(ctx, c, args)
		}
		if i, err := a.instance(ctx, args[0]); err == nil && c.Parent().Parent().Name() == "config" {
			return slices.Collect(maps.Keys(i.Devices))
		}
		if p, err := a.profile(ctx, args[0]); err == nil {
			return slices.Collect(maps.Keys(p.Devices))
		}
		return nil
	case "snapshot", "pool":
		if c.Parent().Name() == "volume" && (kind == "snapshot" || oneWord(c)) {
			return a.volumeWords(ctx, c, kind, server, args)
		}
		if kind == "pool" {
			break
		}
		return a.snapshotNames(ctx, server, args, typed)
	case "volume":
		return a.volumeNames(ctx, args)
	}
	at, err := a.At(server)
	path := collections()[kind]
	if err != nil || path == "" {
		return nil
	}
	names, err := nameList(ctx, at, path)
	if err != nil {
		return nil
	}
	return names
}

func (a *app) aliasNames(ctx context.Context, server string) []string {
	var words []string
	if server != "" {
		words = append(words, server)
	}
	all, _, err := a.Aliases(ctx, words)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
	}
	return names
}

// unnamed gives the fingerprints of the images that have no alias, as far as they are
// shown elsewhere.
func (a *app) unnamed(ctx context.Context, server string) []string {
	var words []string
	if server != "" {
		words = append(words, server)
	}
	all, _, err := a.Images(ctx, words, serverFilter)
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range all {
		if len(i.Aliases) == 0 && i.Fingerprint != "" {
			names = append(names, short(i.Fingerprint))
		}
	}
	return names
}

// snapshotNames gives the snapshots of the instance before, or of one that is typed
// up to the slash.
func (a *app) snapshotNames(ctx context.Context, server string, args []string, typed string) []string {
	word, prefix := "", ""
	if instance, _, ok := strings.Cut(typed, "/"); ok {
		word, prefix = instance, strings.TrimPrefix(instance, server)+"/"
	} else if len(args) > 0 && !strings.Contains(args[0], "/") {
		word = args[0]
	}
	at, err := a.At(word)
	if word == "" || err != nil {
		return nil
	}
	names, err := nameList(ctx, at, snapshotsPath(at.Name))
	if err != nil {
		return nil
	}
	for i := range names {
		names[i] = prefix + names[i]
	}
	return names
}

// volumeNames gives the storage volumes of the pool before.
func (a *app) volumeNames(ctx context.Context, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	at, err := a.At(args[0])
	if err != nil {
		return nil
	}
	names, err := nameList(ctx, at, volumesPath(at.Name, "custom"))
	if err != nil {
		return nil
	}
	return names
}

// oneWord reports whether a command about volumes takes a pool and a volume as one word.
func oneWord(c *cobra.Command) bool { return c.Name() == "copy" || c.Name() == "move" }

// volumeWords gives the snapshots of the storage volume before, or, where pool and volume
// are one word, all of these.
func (a *app) volumeWords(ctx context.Context, c *cobra.Command, kind, server string, args []string) []string {
	var words []string
	switch {
	case oneWord(c) && kind == "pool":
		for _, name := range a.volumeNames(ctx, []string{server + "default"}) {
			words = append(words, "default/"+name)
		}
	case !oneWord(c) && len(args) > 1:
		if v, err := a.volume(ctx, args[0], args[1]); err == nil {
			words, _ = nameList(ctx, v.at, v.path+"/snapshots")
		}
	}
	return words
}

// volumeDevices gives the devices by which an instance or a profile has a storage volume.
func (a *app) volumeDevices(ctx context.Context, c *cobra.Command, args []string) []string {
	find := a.instanceHolder
	if strings.HasSuffix(c.Name(), "-profile") {
		find = a.profileHolder
	}
	_, h, err := a.volumeAndHolder(ctx, args, find)
	if err != nil || strings.HasPrefix(c.Name(), "attach") { // which takes a new name
		return nil
	}
	return slices.Collect(maps.Keys(h.devices))
}

// configKeys gives the keys that can be there: properties of the image that was named, keys
// of instances and profiles, or of the server if nothing was named.
func (a *app) configKeys(ctx context.Context, c *cobra.Command, args []string) []string {
	switch {
	case c.Parent().Name() == "image" && len(args) > 0:
		if i, err := a.image(ctx, args[0]); err == nil {
			return slices.Collect(maps.Keys(i.Properties))
		}
		return nil
	case c.Parent().Name() == "volume":
		if v, err := a.volume(ctx, args[0], args[1]); err == nil {
			return slices.Collect(maps.Keys(v.Config))
		}
		return nil
	case c.Parent().Name() == "device":
		var names []string
		for _, keys := range instance.DeviceKeys() {
			names = append(names, option.Names(keys)...)
		}
		return names
	case c.Parent().Name() == "network":
		return option.Names(network.Keys())
	case c.Parent().Name() == "project":
		return option.Names(daemon.ProjectKeys())
	case len(args) == 0 || place.IsServer(args[0]):
		return serverKeys()
	}
	words := instanceKeys()
	var i api.Instance
	if c.Parent().Name() == "config" {
		if held, err := a.instance(ctx, args[0]); err == nil {
			i = held.Instance
		}
	}
	for k := range i.Config {
		if !strings.HasPrefix(k, "volatile.") {
			words = append(words, k)
		}
	}
	return words
}

// serverKeys are the settings of a server.
func serverKeys() []string { return option.Names(daemon.ServerKeys()) }

// instanceKeys are the keys of instances and profiles that have an effect and a fixed name.
func instanceKeys() []string {
	var names []string
	for _, k := range instance.Keys() {
		if k.How < instance.Ignored && !strings.HasSuffix(k.Name, ".") {
			names = append(names, k.Name)
		}
	}
	return names
}
