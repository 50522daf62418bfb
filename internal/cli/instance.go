package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func instancePath(name string) string { return client.Path("/1.0/instances", name) }

// A heldInstance is an instance as it was when it was read, and where.
type heldInstance struct {
	api.Instance
	app *app
	at  place.Place
	tag string
}

func (a *app) instance(ctx context.Context, word string) (i heldInstance, err error) {
	i.app = a
	if i.at, err = a.At(word); err != nil {
		return i, err
	}
	if err := noSnapshot(i.at); err != nil {
		return i, err
	}
	return i, i.read(ctx)
}

// noSnapshot refuses a word for a snapshot where an instance is meant. The error is Invalid.
func noSnapshot(at place.Place) error {
	if !isSnapshot(at.Name) {
		return nil
	}
	return kiln.Errorf(kiln.Invalid, "%q is a snapshot, and this is about instances; see: kiln snapshot --help", at.Name)
}

// read looks at an instance as it is now. Requests to where it is are about this one from
// then on, also when another one gets its name.
func (i *heldInstance) read(ctx context.Context) (err error) {
	i.Instance = api.Instance{}
	if i.tag, err = i.at.Get(ctx, instancePath(i.at.Name), nil, &i.Instance); err != nil {
		return i.app.suggest(ctx, i.at, err)
	}
	i.at.Client = i.at.Meaning(i.at.Name, cmp.Or(i.Config["volatile.backups.uuid"], i.Config["volatile.backups"],
		i.Config["volatile.uuid"]))
	return nil
}

// save writes what can be changed of an instance.
func (i heldInstance) save(ctx context.Context) error {
	return i.app.change(ctx, i.at, instancePath(i.Name), i.InstancePut, i.tag)
}

// change replaces what can be changed of a thing, and shows what the server warns of.
func (a *app) change(ctx context.Context, at place.Place, path string, put any, tag string) error {
	warnings, err := at.ChangeWarned(ctx, http.MethodPut, path, put, tag)
	for _, w := range warnings {
		fmt.Fprintf(a.Err, "Warning: %s\n", printable(w))
	}
	return err
}

// suggest is missing for instances.
func (a *app) suggest(ctx context.Context, at place.Place, err error) error {
	at.Name, _, _ = at.Snapshot()
	return a.missing(ctx, at, "instance", err)
}

func (a *app) infoCmd() *cobra.Command {
	c := &cobra.Command{Use: "info [[<remote>:]<instance>]", Short: "Show details of an instance or of a server",
		Args: cobra.MaximumNArgs(1)}
	log := c.Flags().Bool("show-log", false, "also show the log of its last start")
	resources := c.Flags().Bool("resources", false, "of a server: show what its host is made of")
	form := objectFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 || place.IsServer(args[0]) {
			at, err := a.server(args)
			if err != nil {
				return err
			}
			if *resources {
				return a.resources(c.Context(), at, *form)
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
		if *resources {
			return usageError{fmt.Errorf("--resources is of a server; instances take the resources of theirs: kiln info " +
				"--resources")}
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
	if i.Problem != "" {
		p("Problem: %s", i.Problem)
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
	console := new(string)
	if verb == "start" || verb == "restart" {
		console = consoleFlag(c)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all {
			at, err := a.server(args)
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
		if *console != "" && len(args) != 1 {
			return usageError{errors.New("--console is for one instance at a time")}
		}
		return each(args, func(word string) error {
			at, err := a.At(word)
			if err != nil {
				return err
			}
			if *console != "" {
				i, err := a.instance(c.Context(), word)
				if err != nil {
					return err
				}
				at = i.at
			}
			err = a.act(c.Context(), at, api.InstanceStatePut{Action: action, Force: *force, Timeout: *timeout})
			if verb == "start" && errors.Is(err, kiln.Conflict) {
				err = a.resume(c.Context(), at, err)
			}
			if err != nil || *console == "" {
				return err
			}
			return a.attach(c.Context(), at, api.InstanceConsolePost{Type: *console})
		})
	}
	return c
}

// resume has an instance go on that can't be started as it is paused, as lxc does; else why stays.
func (a *app) resume(ctx context.Context, at place.Place, why error) error {
	i, err := a.instance(ctx, at.Word())
	if err != nil || i.Status != "Frozen" {
		return why
	}
	return a.act(ctx, i.at, api.InstanceStatePut{Action: "unfreeze", Timeout: -1})
}

func (a *app) act(ctx context.Context, at place.Place, put api.InstanceStatePut) error {
	if err := noSnapshot(at); err != nil {
		return err
	}
	err := at.Change(ctx, http.MethodPut, instancePath(at.Name)+"/state", put, "")
	return a.suggest(ctx, at, err)
}

func (a *app) deleteCmd() *cobra.Command {
	c := &cobra.Command{Use: "delete [<remote>:]<instance>[/<snapshot>]...",
		Short: "Delete instances and snapshots", Args: cobra.MinimumNArgs(1)}
	force := c.Flags().BoolP("force", "f", false, "also instances that run")
	interactive := c.Flags().BoolP("interactive", "i", false, "ask before each is deleted")
	c.RunE = func(c *cobra.Command, args []string) error {
		looked := map[string]heldInstance{}
		if _, err := allThere(args, func(word string) (i heldInstance, err error) {
			i, err = a.deletable(c.Context(), word, *force)
			looked[word] = i
			return i, err
		}); err != nil {
			return err
		}
		seen := map[string]bool{}
		return each(args, func(word string) error {
			at, err := a.At(word)
			if id := at.Remote + ":" + at.Name; err != nil || seen[id] { // it was named in another way, too
				return err
			} else {
				seen[id] = true
			}
			if *interactive {
				if yes, err := a.confirm("Delete " + word); !yes {
					return err
				}
			}
			if isSnapshot(word) {
				return a.deleteAll(c.Context(), []string{word}, a.oneSnapshot, "")
			}
			i := looked[word]
			if err := i.read(c.Context()); err != nil {
				return err
			}
			if i.Status != "Stopped" {
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

func isSnapshot(word string) bool { return strings.Contains(word, "/") }

// deletable says what keeps an instance or a snapshot from being deleted, if anything
// does. It gives the instance that is meant by a word.
func (a *app) deletable(ctx context.Context, word string, force bool) (heldInstance, error) {
	if isSnapshot(word) {
		_, err := a.oneSnapshot(ctx, word)
		return heldInstance{}, err
	}
	i, err := a.instance(ctx, word)
	if err == nil && i.Status != "Stopped" && !force {
		return i, kiln.Errorf(kiln.Conflict, "The instance %q is currently running, stop it first or pass --force", i.Name)
	}
	if err == nil && kiln.IsTrue(i.ExpandedConfig["security.protection.delete"]) {
		return i, a.typed(i.at, kiln.Errorf(kiln.Conflict, "The instance %q is protected from being deleted; allow it with: "+
			"kiln config set %s security.protection.delete=false", i.Name, word))
	}
	return i, err
}
