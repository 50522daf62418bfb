package cli

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
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
	return len(args) == keys || len(args) > 0 && place.IsServer(args[0])
}

func (a *app) configGetCmd() *cobra.Command {
	c := &cobra.Command{Use: "get [[<remote>:]<instance>] <key>", Short: "Show the value of a configuration key",
		Args: cobra.RangeArgs(1, 2)}
	expanded := c.Flags().BoolP("expanded", "e", false, "also what the profiles of the instance say")
	c.RunE = func(c *cobra.Command, args []string) error {
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
				if err := typo(key, serverKeys()); err != nil {
					return err
				}
				v = ""
			}
			return a.value(fmt.Sprint(v))
		}
		i, err := a.instance(c.Context(), args[0])
		if err != nil {
			return err
		}
		if _, there := i.Config[key]; !there {
			if err := typo(key, instanceKeys()); err != nil {
				return err
			}
		}
		if *expanded {
			return a.value(i.ExpandedConfig[key])
		}
		return a.value(i.Config[key])
	}
	return c
}

// typo is the error about a key that isn't set and, as far as this client knows, can't be:
// it has no dot, or one that can be set is nearly the same. A server may know more keys.
func typo(key string, known []string) error {
	if slices.Contains(known, key) {
		return nil
	}
	hint := kiln.DidYouMean(key, known)
	if hint == "" && strings.Contains(key, ".") {
		return nil
	}
	return kiln.Errorf(kiln.NotFound, "unknown key %q%s", key, hint)
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
				strings.Contains(args[0], ".") && len(args) == 2 || place.IsServer(args[0]))
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
	c := &cobra.Command{Use: "show [[<remote>:]<instance>[/<snapshot>]]", Short: "Show a configuration as YAML",
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
		if isSnapshot(args[0]) {
			return a.showSnapshot(c.Context(), args)
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
				return a.change(c.Context(), i.at, instancePath(i.Name), put, tag)
			})
		}}
}
