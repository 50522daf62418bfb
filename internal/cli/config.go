package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) configCmd() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Manage the configuration of instances and servers"}
	c.AddCommand(a.configGetCmd(), a.configSetCmd("set"), a.configSetCmd("unset"), a.configShowCmd(), a.configEditCmd(),
		a.deviceCmd("instance", a.instanceHolder), a.metadataCmd(), a.templateCmd(), a.trustCmd())
	return c
}

// isServer reports whether words for config get and the like mean the server: then
// there is no instance before the keys.
func isServer(args []string, keys int) bool {
	return len(args) == keys || len(args) > 0 && strings.HasSuffix(args[0], ":")
}

func (a *app) configGetCmd() *cobra.Command {
	return &cobra.Command{Use: "get [[<remote>:]<instance>] <key>", Short: "Show the value of a configuration key",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			key := args[len(args)-1]
			if isServer(args, 1) {
				at, _, err := a.Server(args)
				if err != nil {
					return err
				}
				var s api.Server
				if _, err := at.Get(c.Context(), "/1.0", nil, &s); err != nil {
					return err
				}
				v, there := s.Config[key]
				if !there {
					v = ""
				}
				return a.value(fmt.Sprint(v))
			}
			i, err := a.instance(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.value(i.Config[key])
		}}
}

// assignments reads "key value" and "key=value …".
func assignments(words []string) (map[string]string, error) {
	if len(words) == 2 && !strings.Contains(words[0], "=") {
		return map[string]string{words[0]: words[1]}, nil
	}
	return pairs(words)
}

func (a *app) configSetCmd(verb string) *cobra.Command {
	use := map[string]string{"set": "set [[<remote>:]<instance>] <key>=<value>... | <key> <value>",
		"unset": "unset [[<remote>:]<instance>] <key>"}[verb]
	return &cobra.Command{Use: use, Short: strings.ToUpper(verb[:1]) + verb[1:] + " configuration keys",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			server := isServer(args, 1) && verb == "unset" || verb == "set" && (strings.Contains(args[0], "=") ||
				strings.Contains(args[0], ".") && len(args) == 2 || strings.HasSuffix(args[0], ":"))
			target := ""
			at, rest, err := a.Server(args)
			switch {
			case !server:
				target, args = args[0], args[1:]
			case err != nil:
				return err
			default:
				args = rest
			}
			change := map[string]string{}
			if verb == "unset" {
				for _, k := range args {
					change[k] = ""
				}
			} else if change, err = assignments(args); err != nil {
				return err
			}
			if len(change) == 0 {
				return usageError{fmt.Errorf("missing argument: <key>; usage: %s", c.UseLine())}
			}
			if server {
				body := map[string]any{}
				for k, v := range change {
					body[k] = v
				}
				return at.Change(c.Context(), http.MethodPatch, "/1.0", api.ServerPut{Config: body}, "")
			}
			i, err := a.instance(c.Context(), target)
			if err != nil {
				return err
			}
			for k, v := range change {
				if _, there := i.Config[k]; verb == "unset" && !there {
					return kiln.Errorf(kiln.NotFound, "instance %q has no key %q set", i.Name, k)
				}
				i.Config[k] = v
			}
			return i.save(c.Context())
		}}
}

func (a *app) configShowCmd() *cobra.Command {
	c := &cobra.Command{Use: "show [[<remote>:]<instance>]", Short: "Show a configuration as YAML",
		Args: cobra.MaximumNArgs(1)}
	expanded := c.Flags().BoolP("expanded", "e", false, "with what the profiles add")
	c.RunE = func(c *cobra.Command, args []string) error {
		if isServer(args, 0) {
			at, _, err := a.Server(args)
			if err != nil {
				return err
			}
			var s api.Server
			if _, err := at.Get(c.Context(), "/1.0", nil, &s); err != nil {
				return err
			}
			return a.yaml(api.ServerPut{Config: s.Config})
		}
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *expanded {
			i.Config, i.Devices = i.ExpandedConfig, i.ExpandedDevices
		}
		return a.yaml(i.InstancePut)
	}
	return c
}

const editHelp = `### This is the configuration, as YAML. Lines that begin with # are left out.
`

func (a *app) configEditCmd() *cobra.Command {
	return &cobra.Command{Use: "edit [[<remote>:]<instance>]", Short: "Edit a configuration, in an editor or from " +
		"standard input", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if isServer(args, 0) {
				at, _, err := a.Server(args)
				if err != nil {
					return err
				}
				var s api.Server
				tag, err := at.Get(c.Context(), "/1.0", nil, &s)
				if err != nil {
					return err
				}
				now := api.ServerPut{Config: s.Config}
				return edit(a, editHelp, now, s, tag, func(put api.ServerPut, tag string) error {
					return at.Change(c.Context(), http.MethodPut, "/1.0", put, tag)
				})
			}
			i, err := a.instance(c.Context(), args[0])
			if err != nil {
				return err
			}
			return edit(a, editHelp, i.InstancePut, i.Instance, i.tag, func(put api.InstancePut, tag string) error {
				if put.Architecture != i.Architecture {
					return kiln.Errorf(kiln.Invalid, "the architecture of an instance is that of its image and can't be changed; "+
						"nothing was changed")
				}
				return i.at.Change(c.Context(), http.MethodPut, instancePath(i.Name), put, tag)
			})
		}}
}

func (a *app) metadataCmd() *cobra.Command {
	c := &cobra.Command{Use: "metadata", Short: "Manage the metadata of an instance"}
	read := func(ctx context.Context, word string) (m api.ImageMetadata, at place.Place, tag string, err error) {
		if at, err = a.At(word); err != nil {
			return m, at, "", err
		}
		tag, err = at.Get(ctx, instancePath(at.Name)+"/metadata", nil, &m)
		return m, at, tag, a.suggest(ctx, at, err)
	}
	c.AddCommand(
		&cobra.Command{Use: "show [<remote>:]<instance>", Short: "Show the metadata as YAML", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				m, _, _, err := read(c.Context(), args[0])
				if err != nil {
					return err
				}
				return a.yaml(m)
			}},
		&cobra.Command{Use: "edit [<remote>:]<instance>", Short: "Edit the metadata", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				m, at, tag, err := read(c.Context(), args[0])
				if err != nil {
					return err
				}
				return edit(a, editHelp, m, nil, tag, func(m api.ImageMetadata, tag string) error {
					return at.Change(c.Context(), http.MethodPut, instancePath(at.Name)+"/metadata", m, tag)
				})
			}},
	)
	return c
}

func (a *app) templateCmd() *cobra.Command {
	c := &cobra.Command{Use: "template", Short: "Manage the templates of an instance"}
	path := func(word string) (place.Place, string, error) {
		at, err := a.At(word)
		return at, instancePath(at.Name) + "/metadata/templates", err
	}
	send := func(ctx context.Context, args []string, body io.Reader) error {
		at, p, err := path(args[0])
		if err != nil {
			return err
		}
		_, _, err = at.Do(ctx, client.Request{
			Method: http.MethodPost, Path: p, Query: url.Values{"path": {args[1]}}, Body: body,
			Header: http.Header{"Content-Type": {"application/octet-stream"}},
		}, nil)
		return err
	}
	get := func(ctx context.Context, args []string) (string, error) {
		at, p, err := path(args[0])
		if err != nil {
			return "", err
		}
		// An error comes as JSON, a template as it is.
		var ignored any
		resp, err := at.Raw(ctx, client.Request{Method: http.MethodGet, Path: p, Query: url.Values{"path": {args[1]}}})
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			_, err := at.Get(ctx, p, url.Values{"path": {args[1]}}, &ignored)
			return "", err
		}
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	list := &cobra.Command{Use: "list [<remote>:]<instance>", Aliases: []string{"ls"}, Short: "List templates",
		Args: cobra.ExactArgs(1)}
	form := formatFlag(list)
	list.RunE = func(c *cobra.Command, args []string) error {
		at, p, err := path(args[0])
		if err != nil {
			return err
		}
		var names []string
		if _, err := at.Get(c.Context(), p, nil, &names); err != nil {
			return err
		}
		return show(a, *form, []column[string]{col('n', "FILENAME", func(s string) string { return s })}, names)
	}
	editText := func(ctx context.Context, args []string, now string) error {
		if terminal(a.In) {
			b, err := a.editor([]byte(now))
			if err != nil {
				return err
			}
			return send(ctx, args, strings.NewReader(string(b)))
		}
		return send(ctx, args, a.In)
	}
	c.AddCommand(list,
		&cobra.Command{Use: "show [<remote>:]<instance> <template>", Short: "Show a template", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				text, err := get(c.Context(), args)
				if err == nil {
					w := a.data()
					defer flush(w)
					_, err = io.WriteString(w, text)
				}
				return err
			}},
		&cobra.Command{Use: "create [<remote>:]<instance> <template>",
			Short: "Make a template, from standard input if it is no terminal", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				if terminal(a.In) {
					return send(c.Context(), args, strings.NewReader(""))
				}
				return send(c.Context(), args, a.In)
			}},
		&cobra.Command{Use: "edit [<remote>:]<instance> <template>", Short: "Edit a template", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				text, err := get(c.Context(), args)
				if err != nil {
					return err
				}
				return editText(c.Context(), args, text)
			}},
		&cobra.Command{Use: "delete [<remote>:]<instance> <template>", Aliases: []string{"rm"}, Short: "Delete a template",
			Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
				at, p, err := path(args[0])
				if err != nil {
					return err
				}
				_, _, err = at.Do(c.Context(), client.Request{Method: http.MethodDelete, Path: p,
					Query: url.Values{"path": {args[1]}}}, nil)
				return err
			}},
	)
	return c
}

// A holder is what has devices: an instance or a profile.
type holder struct {
	devices map[string]map[string]string
	save    func(map[string]map[string]string) error
}

func (a *app) instanceHolder(ctx context.Context, word string) (holder, error) {
	i, err := a.instance(ctx, word)
	return holder{i.Devices, func(d map[string]map[string]string) error {
		i.Devices = d
		return i.save(ctx)
	}}, err
}

func (a *app) deviceCmd(noun string, find func(context.Context, string) (holder, error)) *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Manage the devices of " + noun + "s"}
	verb := func(use, short string, n cobra.PositionalArgs, f func(h holder, args []string) error) {
		use = strings.Replace(use, "<name>", "[<remote>:]<"+noun+">", 1)
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: n, RunE: func(c *cobra.Command, args []string) error {
			h, err := find(c.Context(), args[0])
			if err != nil {
				return err
			}
			if h.devices == nil {
				h.devices = map[string]map[string]string{}
			}
			return f(h, args[1:])
		}})
	}
	known := func(h holder, name string) (map[string]string, error) {
		if d, ok := h.devices[name]; ok {
			return d, nil
		}
		return nil, kiln.Errorf(kiln.NotFound, "no device %q%s", name, kiln.DidYouMean(name,
			slices.Collect(maps.Keys(h.devices))))
	}
	verb("add <name> <device> <type> [<key>=<value>...]", "Add a device", cobra.MinimumNArgs(3),
		func(h holder, args []string) error {
			keys, err := pairs(args[2:])
			if err != nil {
				return err
			}
			if _, there := h.devices[args[0]]; there {
				return kiln.Errorf(kiln.Conflict, "The device %q already exists", args[0])
			}
			keys["type"] = args[1]
			h.devices[args[0]] = keys
			return h.save(h.devices)
		})
	verb("remove <name> <device>...", "Remove devices", cobra.MinimumNArgs(2), func(h holder, args []string) error {
		for _, n := range args {
			if _, err := known(h, n); err != nil {
				return err
			}
			delete(h.devices, n)
		}
		return h.save(h.devices)
	})
	verb("list <name>", "List devices", cobra.ExactArgs(1), func(h holder, _ []string) error {
		for _, n := range slices.Sorted(maps.Keys(h.devices)) {
			a.print("%s", n)
		}
		return nil
	})
	verb("show <name>", "Show devices as YAML", cobra.ExactArgs(1), func(h holder,
		_ []string) error {
		return a.yaml(h.devices)
	})
	verb("get <name> <device> <key>", "Show a key of a device", cobra.ExactArgs(3), func(h holder, args []string) error {
		d, err := known(h, args[0])
		if err != nil {
			return err
		}
		return a.value(d[args[1]])
	})
	verb("set <name> <device> <key>=<value>...", "Set keys of a device", cobra.MinimumNArgs(3),
		func(h holder, args []string) error {
			d, err := known(h, args[0])
			if err != nil {
				return err
			}
			change, err := assignments(args[1:])
			if err != nil {
				return err
			}
			maps.Copy(d, change)
			return h.save(h.devices)
		})
	verb("unset <name> <device> <key>", "Unset a key of a device", cobra.ExactArgs(3),
		func(h holder, args []string) error {
			d, err := known(h, args[0])
			if err != nil {
				return err
			}
			delete(d, args[1])
			return h.save(h.devices)
		})
	return c
}
