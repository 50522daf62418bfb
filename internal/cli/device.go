package cli

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
)

// A holder is what has devices: an instance or a profile.
type holder struct {
	devices   map[string]map[string]string
	inherited map[string]map[string]string // with those of an instance's profiles
	save      func(map[string]map[string]string) error
	name      string
	list      string // the command that shows its devices
}

func (a *app) instanceHolder(ctx context.Context, word string) (holder, error) {
	i, err := a.instance(ctx, word)
	return holder{i.Devices, i.ExpandedDevices, func(d map[string]map[string]string) error {
		i.Devices = d
		return i.save(ctx)
	}, i.Name, "kiln config device show " + word}, err
}

// device finds a device of what has them. The error is NotFound.
func (h holder) device(name string) (map[string]string, error) {
	if d, ok := h.devices[name]; ok {
		return d, nil
	}
	if _, ok := h.inherited[name]; ok {
		return nil, kiln.Errorf(kiln.NotFound, "the device %q comes from a profile; change it there, or give the instance "+
			"its own: kiln config device override <instance> %s <key>=<value>", name, name)
	}
	near := kiln.DidYouMean(name, slices.Collect(maps.Keys(h.devices)))
	return nil, kiln.Errorf(kiln.NotFound, "%q has no device %q%s", h.name, name, cmp.Or(near, "; see: "+h.list))
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
	verb("add <name> <device> <type> [<key>=<value>...]", "Add a device", cobra.MinimumNArgs(3),
		func(h holder, args []string) error {
			keys, err := pairs(args[2:])
			if err != nil {
				return err
			}
			if _, there := h.devices[args[0]]; there {
				return kiln.Errorf(kiln.Conflict, "The device %q already exists; see: %s", args[0], h.list)
			}
			keys["type"] = args[1]
			h.devices[args[0]] = keys
			return h.save(h.devices)
		})
	verb("remove <name> <device>...", "Remove devices", cobra.MinimumNArgs(2), func(h holder, args []string) error {
		for _, n := range args {
			if _, err := h.device(n); err != nil {
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
	a.deviceKeyVerbs(verb)
	if noun == "instance" {
		verb("override <name> <device> [<key>=<value>...]", "Override a device of a profile for one instance",
			cobra.MinimumNArgs(2), override)
	}
	return c
}

// override copies a device of a profile to the instance, with keys of its own.
func override(h holder, args []string) error {
	if _, there := h.devices[args[0]]; there {
		return kiln.Errorf(kiln.Conflict, "the device %q is the instance's own already; change it: kiln config device set",
			args[0])
	}
	from, ok := h.inherited[args[0]]
	if !ok {
		return kiln.Errorf(kiln.NotFound, "no profile of the instance has a device %q%s", args[0],
			kiln.DidYouMean(args[0], slices.Collect(maps.Keys(h.inherited))))
	}
	keys, err := pairs(args[1:])
	if err != nil {
		return err
	}
	own := maps.Clone(from)
	maps.Copy(own, keys)
	h.devices[args[0]] = own
	return h.save(h.devices)
}

// deviceKeyVerbs are the verbs about keys of a device.
func (a *app) deviceKeyVerbs(verb func(use, short string, n cobra.PositionalArgs, f func(holder, []string) error)) {
	verb("get <name> <device> <key>", "Show a key of a device", cobra.ExactArgs(3), func(h holder, args []string) error {
		d, err := h.device(args[0])
		if err != nil {
			return err
		}
		return a.value(d[args[1]])
	})
	verb("set <name> <device> <key>=<value>...", "Set keys of a device", cobra.MinimumNArgs(3),
		func(h holder, args []string) error {
			d, err := h.device(args[0])
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
			d, err := h.device(args[0])
			if err != nil {
				return err
			}
			delete(d, args[1])
			return h.save(h.devices)
		})
}
