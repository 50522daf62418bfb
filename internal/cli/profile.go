package cli

import (
	"cmp"
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

func profilePath(name string) string { return client.Path("/1.0/profiles", name) }

// A heldProfile is a profile as it was when it was read, and where.
type heldProfile struct {
	api.Profile
	app *app
	at  place.Place
	tag string
}

func (a *app) profile(ctx context.Context, word string) (p heldProfile, err error) {
	p.app = a
	if p.at, err = a.At(word); err != nil {
		return p, err
	}
	p.tag, err = p.at.Get(ctx, profilePath(p.at.Name), nil, &p.Profile)
	if p.Config == nil { // whatever the server says
		p.Config = map[string]string{}
	}
	return p, a.missing(ctx, p.at, "profile", err)
}

// save writes what can be changed of a profile.
func (p heldProfile) save(ctx context.Context) error {
	return p.app.change(ctx, p.at, profilePath(p.Name), p.put(), p.tag)
}

func (p heldProfile) put() api.ProfilePut {
	return api.ProfilePut{Description: p.Description, Config: p.Config, Devices: p.Devices}
}

func (a *app) profileHolder(ctx context.Context, word string) (holder, error) {
	p, err := a.profile(ctx, word)
	return holder{p.Devices, nil, func(d map[string]map[string]string) error {
		p.Devices = d
		return p.save(ctx)
	}, p.Name, "kiln profile device show " + word}, err
}

// A verbFunc does what a verb says with its arguments.
type verbFunc func(ctx context.Context, args []string) error

// An addVerb adds a verb to a command.
type addVerb func(use, short string, n cobra.PositionalArgs, f verbFunc)

func (a *app) profileCmd() *cobra.Command {
	c := &cobra.Command{Use: "profile", Short: "Manage profiles"}
	list := &cobra.Command{Use: "list [<remote>:]", Short: "List profiles",
		Args: cobra.MaximumNArgs(1)}
	show := listFlags(a, list, "ndu", []column[api.Profile]{
		col('e', "PROJECT", func(p api.Profile) string { return p.Project }),
		col('n', "NAME", func(p api.Profile) string { return p.Name }),
		col('d', "DESCRIPTION", func(p api.Profile) string { return p.Description }),
		col('u', "USED BY", func(p api.Profile) string { return fmt.Sprint(len(p.UsedBy)) }),
	})
	a.allProjectsFlag(list)
	list.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		all, err := client.List[api.Profile](c.Context(), at.Client, "/1.0/profiles", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	c.AddCommand(list, a.profileCreateCmd(), a.profileCopyCmd(), a.deviceCmd("profile", a.profileHolder))
	verb := func(use, short string, n cobra.PositionalArgs, f verbFunc) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: n, RunE: func(c *cobra.Command,
			args []string) error {
			return f(c.Context(), args)
		}})
	}
	a.profileVerbs(verb)
	a.profileNameVerbs(verb)
	a.profileKeyVerbs(verb)
	a.profileUseVerbs(verb)
	return c
}

// profileVerbs are the verbs about whole profiles.
func (a *app) profileVerbs(verb addVerb) {
	verb("show [<remote>:]<profile>", "Show a profile as YAML", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			p, err := a.profile(ctx, args[0])
			if err != nil {
				return err
			}
			return a.yaml(p.Profile)
		})
	verb("edit [<remote>:]<profile>", "Edit a profile", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			p, err := a.profile(ctx, args[0])
			if err != nil {
				return err
			}
			return edit(a, editHelp, p.put(), p.Profile, p.tag, func(put api.ProfilePut, tag string) error {
				return a.change(ctx, p.at, profilePath(p.Name), put, tag)
			})
		})
}

// profileNameVerbs are the verbs that make names of profiles and take them away.
func (a *app) profileNameVerbs(verb addVerb) {
	verb("delete [<remote>:]<profile>...", "Delete profiles", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			return a.deleteAll(ctx, args, a.named("profile", profilePath), "Profile %s deleted")
		})
	verb("rename [<remote>:]<profile> <new-name>", "Rename a profile", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			to, err := at.SameServer(args[1])
			if err != nil {
				return usageError{err}
			}
			err = at.Change(ctx, http.MethodPost, profilePath(at.Name), api.Rename{Name: to.Name}, "")
			return a.missing(ctx, at, "profile", err)
		})
}

func (a *app) profileCreateCmd() *cobra.Command {
	c := &cobra.Command{Use: "create [<remote>:]<profile> [<key>=<value>...]",
		Short: "Create a profile, from YAML on standard input if there is any", Args: cobra.MinimumNArgs(1)}
	description := c.Flags().String("description", "", "description of the profile")
	c.RunE = func(c *cobra.Command, args []string) error {
		config, err := pairs(args[1:])
		if err != nil {
			return err
		}
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		post := api.ProfilesPost{Name: at.Name}
		if !terminal(a.In) {
			b, err := readYAML(a.In)
			if err != nil {
				return err
			}
			if post.ProfilePut, err = parseNew[api.ProfilePut](b); err != nil {
				return err
			}
		}
		if post.Config == nil {
			post.Config = map[string]string{}
		}
		maps.Copy(post.Config, config)
		if *description != "" {
			post.Description = *description
		}
		if err := at.Change(c.Context(), http.MethodPost, "/1.0/profiles", post, ""); err != nil {
			return err
		}
		a.say("Profile %s created", at.Name)
		return nil
	}
	return c
}

func (a *app) profileCopyCmd() *cobra.Command {
	c := &cobra.Command{Use: "copy [<remote>:]<profile> [<remote>:][<new-name>]",
		Short: "Copy a profile", Args: cobra.ExactArgs(2)}
	project := c.Flags().String("target-project", "", "project on the target")
	c.RunE = func(c *cobra.Command, args []string) error {
		p, err := a.profile(c.Context(), args[0])
		if err != nil {
			return err
		}
		to, err := a.At(args[1])
		if err != nil {
			return err
		}
		if *project != "" {
			to = a.InProject(to, *project)
		}
		return to.Change(c.Context(), http.MethodPost, "/1.0/profiles",
			api.ProfilesPost{Name: cmp.Or(to.Name, p.Name), ProfilePut: p.put()}, "")
	}
	return c
}

// profileKeyVerbs are the verbs about keys of a profile.
func (a *app) profileKeyVerbs(verb addVerb) {
	a.keyVerbs(verb, "profile", func(ctx context.Context, word string) (map[string]string, saveFunc, error) {
		p, err := a.profile(ctx, word)
		return p.Config, p.save, err
	})
}

// A saveFunc writes an object that was changed.
type saveFunc func(context.Context) error

// keyVerbs are the verbs about the keys of an object that has nothing else to set. read
// gives the keys, and what writes the object when they were changed.
func (a *app) keyVerbs(verb addVerb, noun string,
	read func(ctx context.Context, word string) (map[string]string, saveFunc, error)) {
	object := " [<remote>:]<" + noun + "> "
	verb("get"+object+"<key>", "Show the value of a key of a "+noun, cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			keys, _, err := read(ctx, args[0])
			if err != nil {
				return err
			}
			return a.value(keys[args[1]])
		})
	verb("set"+object+"<key>=<value>...", "Set keys of a "+noun, cobra.MinimumNArgs(2),
		func(ctx context.Context, args []string) error {
			keys, save, err := read(ctx, args[0])
			if err != nil {
				return err
			}
			change, err := assignments(args[1:])
			if err != nil {
				return err
			}
			maps.Copy(keys, change)
			return save(ctx)
		})
	verb("unset"+object+"<key>", "Unset a key of a "+noun, cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			keys, save, err := read(ctx, args[0])
			if err != nil {
				return err
			}
			delete(keys, args[1])
			return save(ctx)
		})
}

// profileUseVerbs are the verbs that change which profiles an instance has.
func (a *app) profileUseVerbs(verb addVerb) {
	change := func(ctx context.Context, word string, f func([]string) ([]string, error)) error {
		i, err := a.instance(ctx, word)
		if err != nil {
			return err
		}
		if i.Profiles, err = f(i.Profiles); err != nil {
			return err
		}
		return i.save(ctx)
	}
	verb("assign [<remote>:]<instance> <profile>[,<profile>...]", "Replace the profiles of an instance",
		cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			return change(ctx, args[0], func([]string) ([]string, error) {
				return strings.FieldsFunc(args[1], func(r rune) bool { return r == ',' }), nil
			})
		})
	verb("add [<remote>:]<instance> <profile>", "Add a profile to an instance", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			return change(ctx, args[0], func(have []string) ([]string, error) {
				if slices.Contains(have, args[1]) {
					return nil, kiln.Errorf(kiln.Conflict, "instance %q has the profile %q already", args[0], args[1])
				}
				return append(have, args[1]), nil
			})
		})
	verb("remove [<remote>:]<instance> <profile>", "Remove a profile from an instance", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			return change(ctx, args[0], func(have []string) ([]string, error) {
				at := slices.Index(have, args[1])
				if at < 0 {
					return nil, kiln.Errorf(kiln.NotFound, "instance %q doesn't use the profile %q", args[0], args[1])
				}
				return slices.Delete(have, at, at+1), nil
			})
		})
}
