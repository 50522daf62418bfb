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

func forwardPath(network, listen string) string {
	return client.Path("/1.0/networks", network, "forwards", listen)
}

// A heldForward is a forward as it was when it was read, and where.
type heldForward struct {
	api.NetworkForward
	app *app
	at  place.Place // of the network
	tag string
}

func (a *app) forward(ctx context.Context, network, listen string) (f heldForward, err error) {
	f.app = a
	if f.at, err = a.At(network); err != nil {
		return f, err
	}
	f.tag, err = f.at.Get(ctx, forwardPath(f.at.Name, listen), nil, &f.NetworkForward)
	if f.Config == nil {
		f.Config = map[string]string{}
	}
	return f, a.missing(ctx, f.at, "network", err)
}

// save writes what can be changed of a forward.
func (f heldForward) save(ctx context.Context) error {
	return f.app.change(ctx, f.at, forwardPath(f.at.Name, f.ListenAddress), f.NetworkForwardPut, f.tag)
}

const forwardArgs = " [<remote>:]<network> <listen-address>"

func (a *app) forwardCmd() *cobra.Command {
	c := &cobra.Command{Use: "forward", Short: "Manage network forwards"}
	verb := func(use, short string, n cobra.PositionalArgs, f verbFunc) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: n, RunE: func(c *cobra.Command, args []string) error {
			return f(c.Context(), args)
		}})
	}
	c.AddCommand(a.forwardListCmd(), a.forwardCreateCmd(), a.forwardPortCmd())
	a.forwardVerbs(verb)
	a.forwardKeyVerbs(verb)
	return c
}

func (a *app) forwardListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]<network>", Short: "List the forwards of a network",
		Args: cobra.ExactArgs(1)}
	show := listFlags(a, c, "ldtp", []column[api.NetworkForward]{
		col('l', "LISTEN ADDRESS", func(f api.NetworkForward) string { return f.ListenAddress }),
		col('d', "DESCRIPTION", func(f api.NetworkForward) string { return f.Description }),
		col('t', "DEFAULT TARGET ADDRESS", func(f api.NetworkForward) string { return f.Config["target_address"] }),
		col('p', "PORTS", func(f api.NetworkForward) string { return fmt.Sprint(len(f.Ports)) }),
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		all, err := client.List[api.NetworkForward](c.Context(), at.Client, networkPath(at.Name)+"/forwards", 1)
		if err != nil {
			return a.missing(c.Context(), at, "network", err)
		}
		return show(all)
	}
	return c
}

func (a *app) forwardCreateCmd() *cobra.Command {
	c := &cobra.Command{Use: "create" + forwardArgs + " [<key>=<value>...]", Short: "Create a forward; with " +
		"target_address=, everything goes to one instance", Args: cobra.MinimumNArgs(2)}
	description := c.Flags().String("description", "", "description of the forward")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		post := api.NetworkForwardsPost{ListenAddress: args[1]}
		if !terminal(a.In) {
			b, err := readYAML(a.In)
			if err != nil {
				return err
			}
			if post.NetworkForwardPut, err = parseNew[api.NetworkForwardPut](b); err != nil {
				return err
			}
		}
		config, err := pairs(args[2:])
		if err != nil {
			return err
		}
		if post.Config == nil {
			post.Config = map[string]string{}
		}
		maps.Copy(post.Config, config)
		post.Description = orElse(*description, post.Description)
		if err := at.Change(c.Context(), http.MethodPost, networkPath(at.Name)+"/forwards", post, ""); err != nil {
			return a.missing(c.Context(), at, "network", err)
		}
		a.say("Network forward %s created", post.ListenAddress)
		return nil
	}
	return c
}

// forwardVerbs are the verbs about whole forwards.
func (a *app) forwardVerbs(verb addVerb) {
	verb("show"+forwardArgs, "Show a forward as YAML", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			f, err := a.forward(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.yaml(f.NetworkForward)
		})
	verb("edit"+forwardArgs, "Edit a forward", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			f, err := a.forward(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return edit(a, editHelp, f.NetworkForwardPut, f.NetworkForward, f.tag,
				func(put api.NetworkForwardPut, tag string) error {
					return a.change(ctx, f.at, forwardPath(f.at.Name, f.ListenAddress), put, tag)
				})
		})
	verb("delete"+forwardArgs, "Delete a forward", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			err = at.Change(ctx, http.MethodDelete, forwardPath(at.Name, args[1]), nil, "")
			if err == nil {
				a.say("Network forward %s deleted", args[1])
			}
			return a.missing(ctx, at, "network", err)
		})
}

// forwardKeyVerbs are the verbs about keys of a forward.
func (a *app) forwardKeyVerbs(verb addVerb) {
	change := func(f func(config map[string]string, args []string) error) verbFunc {
		return func(ctx context.Context, args []string) error {
			held, err := a.forward(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			if err := f(held.Config, args[2:]); err != nil {
				return err
			}
			return held.save(ctx)
		}
	}
	verb("get"+forwardArgs+" <key>", "Show the value of a key of a forward", cobra.ExactArgs(3),
		func(ctx context.Context, args []string) error {
			f, err := a.forward(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.value(f.Config[args[2]])
		})
	verb("set"+forwardArgs+" <key>=<value>...", "Set keys of a forward", cobra.MinimumNArgs(3),
		change(func(config map[string]string, args []string) error {
			set, err := assignments(args)
			maps.Copy(config, set)
			return err
		}))
	verb("unset"+forwardArgs+" <key>", "Unset a key of a forward", cobra.ExactArgs(3),
		change(func(config map[string]string, args []string) error {
			delete(config, args[0])
			return nil
		}))
}

func (a *app) forwardPortCmd() *cobra.Command {
	c := &cobra.Command{Use: "port", Short: "Manage the ports of a forward"}
	add := &cobra.Command{Use: "add" + forwardArgs + " <protocol> <ports> <target-address> [<target-ports>]",
		Short: "Add ports to a forward", Args: cobra.RangeArgs(5, 6)}
	add.RunE = func(c *cobra.Command, args []string) error {
		f, err := a.forward(c.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		p := api.NetworkForwardPort{Protocol: args[2], ListenPort: args[3], TargetAddress: args[4]}
		if len(args) > 5 {
			p.TargetPort = args[5]
		}
		f.Ports = append(f.Ports, p)
		return f.save(c.Context())
	}
	remove := &cobra.Command{Use: "remove" + forwardArgs + " [<protocol> [<ports>]]", Short: "Remove ports from a forward",
		Args: cobra.RangeArgs(2, 4)}
	force := remove.Flags().Bool("force", false, "remove all ports that match")
	remove.RunE = func(c *cobra.Command, args []string) error {
		f, err := a.forward(c.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		match := func(p api.NetworkForwardPort) bool {
			return (len(args) < 3 || p.Protocol == args[2]) && (len(args) < 4 || p.ListenPort == args[3])
		}
		before := len(f.Ports)
		f.Ports = slices.DeleteFunc(f.Ports, match)
		switch n := before - len(f.Ports); {
		case n == 0:
			return kiln.Errorf(kiln.NotFound, "the forward %s has no such ports: %s", args[1], strings.Join(args[2:], " "))
		case n > 1 && !*force:
			return kiln.Errorf(kiln.Invalid, "%d entries of the forward %s match; name the protocol and the ports, or give "+
				"--force", n, args[1])
		}
		return f.save(c.Context())
	}
	c.AddCommand(add, remove)
	return c
}
