package cli

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func networkPath(name string) string { return client.Path("/1.0/networks", name) }

// A heldNetwork is a network as it was when it was read, and where.
type heldNetwork struct {
	api.Network
	app *app
	at  place.Place
	tag string
}

func (a *app) network(ctx context.Context, word string) (n heldNetwork, err error) {
	n.app = a
	if n.at, err = a.At(word); err != nil {
		return n, err
	}
	n.tag, err = n.at.Get(ctx, networkPath(n.at.Name), nil, &n.Network)
	if n.Config == nil {
		n.Config = map[string]string{}
	}
	return n, a.missing(ctx, n.at, "network", err)
}

// save writes what can be changed of a network.
func (n heldNetwork) save(ctx context.Context) error {
	return n.app.change(ctx, n.at, networkPath(n.Name), n.NetworkPut, n.tag)
}

func (a *app) networkCmd() *cobra.Command {
	c := &cobra.Command{Use: "network", Short: "Manage networks"}
	verb := func(use, short string, n cobra.PositionalArgs, f verbFunc) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: n, RunE: func(c *cobra.Command, args []string) error {
			return f(c.Context(), args)
		}})
	}
	c.AddCommand(a.networkListCmd(), a.networkCreateCmd(), a.leasesCmd(), a.forwardCmd(), a.explainCmd())
	a.networkVerbs(verb)
	a.networkKeyVerbs(verb)
	a.networkUseVerbs(verb)
	return c
}

func (a *app) networkListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]", Short: "List networks, and the interfaces of " +
		"the host", Args: cobra.MaximumNArgs(1)}
	address := func(key string) func(api.Network) string {
		return func(n api.Network) string { return n.Config[key] }
	}
	show := listFlags(a, c, "ntm46dus", []column[api.Network]{
		col('n', "NAME", func(n api.Network) string { return n.Name }),
		col('t', "TYPE", func(n api.Network) string { return n.Type }),
		col('m', "MANAGED", func(n api.Network) string { return map[bool]string{true: "YES", false: "NO"}[n.Managed] }),
		col('4', "IPV4", address("ipv4.address")),
		col('6', "IPV6", address("ipv6.address")),
		col('d', "DESCRIPTION", func(n api.Network) string { return n.Description }),
		col('u', "USED BY", func(n api.Network) string { return fmt.Sprint(len(n.UsedBy)) }),
		col('s', "STATE", func(n api.Network) string { return strings.ToUpper(n.Status) }),
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		all, err := client.List[api.Network](c.Context(), at.Client, "/1.0/networks", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	return c
}

func (a *app) networkCreateCmd() *cobra.Command {
	c := &cobra.Command{Use: "create [<remote>:]<network> [<key>=<value>...]", Args: cobra.MinimumNArgs(1),
		Short: "Create a network; free addresses are chosen unless given"}
	kind := c.Flags().StringP("type", "t", "", "type of the network: bridge")
	description := c.Flags().String("description", "", "description of the network")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		post := api.NetworksPost{Name: at.Name, Type: *kind}
		if !terminal(a.In) {
			b, err := readYAML(a.In)
			if err != nil {
				return err
			}
			if post.NetworkPut, err = parseNew[api.NetworkPut](b); err != nil {
				return err
			}
		}
		config, err := pairs(args[1:])
		if err != nil {
			return err
		}
		if post.Config == nil {
			post.Config = map[string]string{}
		}
		maps.Copy(post.Config, config)
		post.Description = orElse(*description, post.Description)
		if err := at.Change(c.Context(), http.MethodPost, "/1.0/networks", post, ""); err != nil {
			return err
		}
		a.say("Network %s created", at.Name)
		return nil
	}
	return c
}

func (a *app) leasesCmd() *cobra.Command {
	c := &cobra.Command{Use: "list-leases [<remote>:]<network>", Short: "List the DHCP leases of a network",
		Args: cobra.ExactArgs(1)}
	show := listFlags(a, c, "nmat", []column[api.NetworkLease]{
		col('n', "HOSTNAME", func(l api.NetworkLease) string { return l.Hostname }),
		col('m', "MAC ADDRESS", func(l api.NetworkLease) string { return l.Hwaddr }),
		col('a', "IP ADDRESS", func(l api.NetworkLease) string { return l.Address }),
		col('t', "TYPE", func(l api.NetworkLease) string { return strings.ToUpper(l.Type) }),
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		var all []api.NetworkLease
		if _, err := at.Get(c.Context(), networkPath(at.Name)+"/leases", nil, &all); err != nil {
			return a.missing(c.Context(), at, "network", err)
		}
		return show(all)
	}
	return c
}

// networkVerbs are the verbs about whole networks.
func (a *app) networkVerbs(verb addVerb) {
	verb("show [<remote>:]<network>", "Show a network as YAML", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			n, err := a.network(ctx, args[0])
			if err != nil {
				return err
			}
			return a.yaml(n.Network)
		})
	verb("info [<remote>:]<network>", "Show the state of a network", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			n, err := a.network(ctx, args[0])
			if err != nil {
				return err
			}
			var st api.NetworkState
			if _, err := n.at.Get(ctx, networkPath(n.Name)+"/state", nil, &st); err != nil {
				return err
			}
			return a.networkInfo(n.Network, st)
		})
	verb("edit [<remote>:]<network>", "Edit a network", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			n, err := a.network(ctx, args[0])
			if err != nil {
				return err
			}
			return edit(a, editHelp, n.NetworkPut, n.Network, n.tag, func(put api.NetworkPut, tag string) error {
				return a.change(ctx, n.at, networkPath(n.Name), put, tag)
			})
		})
	verb("rename [<remote>:]<network> <new-name>", "Rename an unused network", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			to, err := at.SameServer(args[1])
			if err != nil {
				return usageError{err}
			}
			err = at.Change(ctx, http.MethodPost, networkPath(at.Name), api.Rename{Name: to.Name}, "")
			if err == nil {
				a.say("Network %s renamed to %s", at.Name, to.Name)
			}
			return a.missing(ctx, at, "network", err)
		})
	verb("delete [<remote>:]<network>...", "Delete unused networks", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			return a.deleteAll(ctx, args, a.named("network", networkPath), "Network %s deleted")
		})
}

func (a *app) networkInfo(n api.Network, st api.NetworkState) error {
	lines := []string{"Name: " + n.Name, "MAC address: " + st.Hwaddr, fmt.Sprintf("MTU: %d", st.Mtu), "State: " + st.State,
		"Type: " + n.Type, "", "IP addresses:"}
	for _, address := range st.Addresses {
		lines = append(lines, fmt.Sprintf("  %s\t%s/%s (%s)", address.Family, address.Address, address.Netmask,
			address.Scope))
	}
	lines = append(lines, "", "Network usage:", "  Bytes received: "+size(st.Counters.BytesReceived),
		"  Bytes sent: "+size(st.Counters.BytesSent), fmt.Sprintf("  Packets received: %d", st.Counters.PacketsReceived),
		fmt.Sprintf("  Packets sent: %d", st.Counters.PacketsSent))
	return a.value(strings.Join(lines, "\n"))
}

// networkKeyVerbs are the verbs about keys of a network.
func (a *app) networkKeyVerbs(verb addVerb) {
	a.keyVerbs(verb, "network", func(ctx context.Context, word string) (map[string]string, saveFunc, error) {
		n, err := a.network(ctx, word)
		return n.Config, n.save, err
	})
}

// networkUseVerbs are the verbs that connect instances and profiles to networks.
func (a *app) networkUseVerbs(verb addVerb) {
	attach := func(find func(context.Context, string) (holder, error)) verbFunc {
		return func(ctx context.Context, args []string) error {
			n, err := a.network(ctx, args[0])
			if err != nil {
				return err
			}
			h, err := find(ctx, args[1])
			if err != nil {
				return err
			}
			device := n.Name
			if len(args) > 2 {
				device = args[2]
			}
			if _, there := h.devices[device]; there {
				return kiln.Errorf(kiln.Conflict, "The device %q already exists; to give the new one another name, write that "+
					"after %q", device, args[1])
			}
			h.devices = withNic(h.devices, device, n.Network)
			if len(args) > 3 {
				h.devices[device]["name"] = args[3]
			}
			return h.save(h.devices)
		}
	}
	detach := func(find func(context.Context, string) (holder, error)) verbFunc {
		return func(ctx context.Context, args []string) error {
			n, err := a.network(ctx, args[0])
			if err != nil {
				return err
			}
			h, err := find(ctx, args[1])
			if err != nil {
				return err
			}
			var found []string
			for name, d := range h.devices {
				if d["type"] == "nic" && (d["network"] == n.Name || d["parent"] == n.Name) && (len(args) < 3 || args[2] == name) {
					found = append(found, name)
				}
			}
			slices.Sort(found)
			switch len(found) {
			case 1:
				delete(h.devices, found[0])
				return h.save(h.devices)
			case 0:
				return kiln.Errorf(kiln.NotFound, "%q has no device of its own on network %q", args[1], n.Name)
			}
			return kiln.Errorf(kiln.Invalid, "%q has several devices on network %q; name one: %s", args[1], n.Name,
				strings.Join(found, ", "))
		}
	}
	const of, more = " [<remote>:]<network> ", " [<device>]"
	verb("attach"+of+"<instance>"+more+" [<interface>]", "Connect an instance to a network", cobra.RangeArgs(2, 4),
		attach(a.instanceHolder))
	verb("attach-profile"+of+"<profile>"+more+" [<interface>]", "Connect the instances of a profile to a network",
		cobra.RangeArgs(2, 4), attach(a.profileHolder))
	verb("detach"+of+"<instance>"+more, "Disconnect an instance from a network", cobra.RangeArgs(2, 3),
		detach(a.instanceHolder))
	verb("detach-profile"+of+"<profile>"+more, "Disconnect the instances of a profile from a network",
		cobra.RangeArgs(2, 3), detach(a.profileHolder))
}

// withNic adds an interface on a network to devices.
func withNic(devices map[string]map[string]string, name string, n api.Network) map[string]map[string]string {
	if devices == nil {
		devices = map[string]map[string]string{}
	}
	if n.Managed {
		devices[name] = map[string]string{"type": "nic", "network": n.Name}
	} else {
		devices[name] = map[string]string{"type": "nic", "nictype": "bridged", "parent": n.Name}
	}
	return devices
}
