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
	"github.com/kiln-containers/kiln/internal/project"
)

func projectPath(name string) string { return client.Path("/1.0/projects", name) }

// A heldProject is a project as it was when it was read, and where.
type heldProject struct {
	api.Project
	app *app
	at  place.Place
	tag string
}

func (a *app) project(ctx context.Context, word string) (p heldProject, err error) {
	p.app = a
	if p.at, err = a.At(word); err != nil {
		return p, err
	}
	p.tag, err = p.at.Get(ctx, projectPath(p.at.Name), nil, &p.Project)
	if p.Config == nil {
		p.Config = map[string]string{}
	}
	return p, a.missing(ctx, p.at, "project", err)
}

func (p heldProject) put() api.ProjectPut {
	return api.ProjectPut{Description: p.Description, Config: p.Config}
}

// save writes what can be changed of a project.
func (p heldProject) save(ctx context.Context) error {
	return p.app.change(ctx, p.at, projectPath(p.Name), p.put(), p.tag)
}

func (a *app) projectCmd() *cobra.Command {
	c := &cobra.Command{Use: "project", Short: "Manage projects",
		Long: "Manage projects. Instances of different projects may have the same names. A project has images, " +
			"profiles and storage volumes of its own, or uses those of the default project (features.images=false, " +
			"features.profiles=false, features.storage.volumes=false)."}
	verb := func(use, short string, n cobra.PositionalArgs, f verbFunc) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: n, RunE: func(c *cobra.Command, args []string) error {
			return f(c.Context(), args)
		}})
	}
	c.AddCommand(a.projectListCmd(), a.projectCreateCmd(), a.projectInfoCmd())
	a.projectVerbs(verb)
	a.keyVerbs(verb, "project", func(ctx context.Context, word string) (map[string]string, saveFunc, error) {
		p, err := a.project(ctx, word)
		return p.Config, p.save, err
	})
	return c
}

// allProjectsFlag lets a list be of every project.
func (a *app) allProjectsFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.AllProjects, "all-projects", false, "from all projects")
}

// current gives the name of the project that a remote's requests are about.
func current(at place.Place) string { return orElse(at.Project(), project.Default) }

func (a *app) projectListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]", Short: "List projects",
		Args: cobra.MaximumNArgs(1)}
	var at place.Place
	has := func(key string) func(api.Project) string {
		return func(p api.Project) string {
			return map[bool]string{true: "YES", false: "NO"}[kiln.IsTrue(p.Config[key])]
		}
	}
	show := listFlags(a, c, "nipswdu", []column[api.Project]{
		col('n', "NAME", func(p api.Project) string {
			if p.Name == current(at) {
				return p.Name + " (current)"
			}
			return p.Name
		}),
		col('i', "IMAGES", has("features.images")),
		col('p', "PROFILES", has("features.profiles")),
		col('s', "STORAGE VOLUMES", has("features.storage.volumes")),
		col('w', "NETWORKS", has("features.networks")),
		col('d', "DESCRIPTION", func(p api.Project) string { return p.Description }),
		col('u', "USED BY", func(p api.Project) string { return fmt.Sprint(len(p.UsedBy)) }),
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		var err error
		if at, err = a.server(args); err != nil {
			return err
		}
		all, err := client.List[api.Project](c.Context(), at.Client, "/1.0/projects", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	return c
}

func (a *app) projectCreateCmd() *cobra.Command {
	c := &cobra.Command{Use: "create [<remote>:]<project> [<key>=<value>...]", Short: "Create a project, from YAML on " +
		"standard input if there is any", Args: cobra.MinimumNArgs(1)}
	config := c.Flags().StringArrayP("config", "c", nil, "`<key>=<value>` of the configuration, may be "+
		"given more than once")
	description := c.Flags().String("description", "", "description of the project")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		post := api.ProjectsPost{Name: at.Name}
		if !terminal(a.In) {
			b, err := readYAML(a.In)
			if err != nil {
				return err
			}
			if post.ProjectPut, err = parseNew[api.ProjectPut](b); err != nil {
				return err
			}
		}
		said, err := pairs(append(args[1:], *config...))
		if err != nil {
			return err
		}
		if post.Config == nil {
			post.Config = map[string]string{}
		}
		maps.Copy(post.Config, said)
		post.Description = orElse(*description, post.Description)
		if err := at.Change(c.Context(), http.MethodPost, "/1.0/projects", post, ""); err != nil {
			return err
		}
		a.say("Project %s created", at.Name)
		return nil
	}
	return c
}

func (a *app) projectInfoCmd() *cobra.Command {
	type row struct {
		name string
		api.ProjectResource
	}
	c := &cobra.Command{Use: "info [<remote>:]<project>", Short: "Show the usage and the limits of a project",
		Args: cobra.ExactArgs(1)}
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		var st api.ProjectState
		if _, err := at.Get(c.Context(), projectPath(at.Name)+"/state", nil, &st); err != nil {
			return a.missing(c.Context(), at, "project", err)
		}
		var rows []row
		for _, name := range slices.Sorted(maps.Keys(st.Resources)) {
			rows = append(rows, row{name, st.Resources[name]})
		}
		amount := func(name string, n int64) string {
			switch {
			case n < 0:
				return "UNLIMITED"
			case name == "memory" || name == "disk":
				return size(n)
			}
			return fmt.Sprint(n)
		}
		return show(a, *form, []column[row]{
			col('r', "RESOURCE", func(r row) string { return strings.ToUpper(r.name) }),
			col('l', "LIMIT", func(r row) string { return amount(r.name, r.Limit) }),
			col('u', "USAGE", func(r row) string { return amount(r.name, r.Usage) }),
		}, rows)
	}
	return c
}

// projectVerbs are the verbs about whole projects.
func (a *app) projectVerbs(verb addVerb) {
	verb("show [<remote>:]<project>", "Show a project as YAML", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			p, err := a.project(ctx, args[0])
			if err != nil {
				return err
			}
			return a.yaml(p.Project)
		})
	verb("edit [<remote>:]<project>", "Edit a project", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			p, err := a.project(ctx, args[0])
			if err != nil {
				return err
			}
			return edit(a, editHelp, p.put(), p.Project, p.tag, func(put api.ProjectPut, tag string) error {
				return a.change(ctx, p.at, projectPath(p.Name), put, tag)
			})
		})
	verb("rename [<remote>:]<project> <new-name>", "Rename an empty project", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			to, err := at.SameServer(args[1])
			if err != nil {
				return usageError{err}
			}
			err = at.Change(ctx, http.MethodPost, projectPath(at.Name), api.Rename{Name: to.Name}, "")
			if err == nil {
				a.say("Project %s renamed to %s", at.Name, to.Name)
			}
			return a.missing(ctx, at, "project", err)
		})
	verb("delete [<remote>:]<project>...", "Delete empty projects", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			return a.deleteAll(ctx, args, a.named("project", projectPath), "Project %s deleted")
		})
	verb("switch [<remote>:]<project>", "Switch the current project", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			p, err := a.project(ctx, args[0])
			if err != nil {
				return err
			}
			return a.switchProject(p.at.Remote, p.Name)
		})
	verb("get-current [<remote>:]", "Show the current project", cobra.MaximumNArgs(1),
		func(ctx context.Context, args []string) error {
			at, err := a.server(args)
			if err != nil {
				return err
			}
			return a.value(current(at))
		})
}

// switchProject writes into the file of remotes which project a remote's is.
func (a *app) switchProject(remote, name string) error {
	r, err := a.Config()
	if err != nil {
		return err
	}
	found, err := r.Find(remote)
	if err != nil {
		return err
	}
	c := *found
	c.Project = name
	r.Remotes[remote] = &c
	return r.Save()
}
