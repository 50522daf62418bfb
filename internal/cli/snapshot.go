package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func snapshotsPath(instance string) string { return instancePath(instance) + "/snapshots" }

// pathOf is instancePath, or for "c1/snap0" snapshotPath.
func pathOf(name string) string {
	if instance, snap, ok := strings.Cut(name, "/"); ok {
		return snapshotPath(instance, snap)
	}
	return instancePath(name)
}

func snapshotPath(instance, snap string) string {
	return client.Path(snapshotsPath(instance), snap)
}

// snapshotCmd makes a snapshot itself, as lxc's does, and has the commands that
// incus has below it.
func (a *app) snapshotCmd() *cobra.Command {
	c := a.snapshotCreateCmd("snapshot [<remote>:]<instance> [<name>]")
	c.Short = "Manage snapshots of instances"
	c.Long = "Save the files and the configuration of an instance. Snapshots of stopped instances copy nothing; a " +
		"running instance is frozen for a few milliseconds.\n\nFor an instance that has the name of a command below, use " +
		"kiln snapshot create."
	c.AddCommand(a.snapshotCreateCmd("create [<remote>:]<instance> [<name>]"), a.snapshotListCmd(), a.snapshotShowCmd(),
		a.snapshotDeleteCmd(), a.snapshotRenameCmd(), a.restoreCmd())
	return c
}

func (a *app) snapshotCreateCmd(use string) *cobra.Command {
	c := &cobra.Command{Use: use, Short: "Create a snapshot", Args: cobra.RangeArgs(1, 2)}
	f := c.Flags()
	expires := expiryFlags(c)
	reuse := f.Bool("reuse", false, "replace the snapshot that has the name")
	stateful := f.Bool("stateful", false, "also save the memory of the instance")
	_ = f.MarkHidden("stateful")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		post := api.InstanceSnapshotsPost{Stateful: *stateful, Name: strings.Join(args[1:], "")}
		if post.ExpiresAt, err = expires(); err != nil {
			return err
		}
		err = a.snapshot(c.Context(), at, post, *reuse)
		if errors.Is(err, kiln.NotFound) && c.HasSubCommands() {
			var verbs []string
			for _, sub := range c.Commands() {
				verbs = append(verbs, sub.Name())
			}
			if near := kiln.Nearest(args[0], verbs); len(near) > 0 {
				err = kiln.Errorf(kiln.NotFound, "%w; for the command: %s %s", err, c.CommandPath(), near[0])
			}
		}
		return err
	}
	return c
}

// expiryFlags say when a snapshot is deleted; nil: as its object says.
func expiryFlags(c *cobra.Command) func() (*time.Time, error) {
	f := c.Flags()
	expires := f.String("expires", "", "when it is deleted: after a time (30d, 12h, \"1w 3d\") or at one (2030-01-31, "+
		"RFC 3339)")
	f.StringVar(expires, "expiry", "", "the same")
	_ = f.MarkHidden("expiry")
	never := f.Bool("no-expiry", false, "keep it, whatever snapshots.expiry says")
	return func() (*time.Time, error) {
		switch {
		case *never && *expires != "":
			return nil, usageError{errors.New("--expires and --no-expiry can't be used together")}
		case *never:
			return &time.Time{}, nil
		case *expires == "":
			return nil, nil
		}
		at, err := expiry(*expires, time.Now())
		if err != nil {
			return nil, usageError{fmt.Errorf("--expires: %w", err)}
		}
		return &at, nil
	}
}

// expiry reads a time that is given as such or as the time until then.
func expiry(v string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, v); err == nil {
			if at.Before(now) {
				return at, fmt.Errorf("%s is past", v)
			}
			return at.UTC(), nil
		}
	}
	at, err := kiln.ParseExpiry(v, now)
	return at.UTC(), err
}

func (a *app) snapshot(ctx context.Context, at place.Place, post api.InstanceSnapshotsPost, reuse bool) error {
	if reuse && post.Name != "" {
		return replaceSnapshot(ctx, at, snapshotsPath(at.Name), post.Name, func(name string) error {
			post.Name = name
			return a.snapshot(ctx, at, post, false)
		})
	}
	_, op, err := at.Do(ctx, client.Request{Method: http.MethodPost, Path: snapshotsPath(at.Name), Body: post}, nil)
	if err != nil {
		return a.suggest(ctx, at, err)
	}
	if _, err := at.Wait(ctx, op.ID); err != nil {
		return err
	}
	if urls := op.Resources["instances_snapshots"]; post.Name == "" && len(urls) > 0 {
		a.say("Snapshot name is: %s", path.Base(urls[0]))
	}
	return nil
}

// replaceSnapshot has a snapshot made in the place of the one that has its name, if there is
// one. That stays until the new one is there, which has another name meanwhile.
func replaceSnapshot(ctx context.Context, at place.Place, snapshots, name string,
	create func(name string) error) error {
	old := client.Path(snapshots, name)
	if _, err := at.Get(ctx, old, nil, nil); errors.Is(err, kiln.NotFound) {
		return create(name)
	} else if err != nil {
		return err
	}
	temp := fmt.Sprintf("reuse-%08x", rand.Uint32())
	if err := create(temp); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // there are two now
	made := client.Path(snapshots, temp)
	err := at.Change(ctx, http.MethodDelete, old, nil, "")
	if errors.Is(err, kiln.NotFound) {
		err = nil
	}
	if err != nil { // a row goes before the files: it may be gone all the same
		_, look := at.Get(ctx, old, nil, nil)
		lost := errors.Is(err, kiln.Network)
		switch {
		case look == nil && !lost:
			return errors.Join(err, at.Change(ctx, http.MethodDelete, made, nil, ""))
		case !errors.Is(look, kiln.NotFound): // perhaps it is being deleted
			return kiln.Errorf(kiln.KindOf(err), "%w; the new snapshot is there as %q: when %q is gone, rename it", err, temp,
				name)
		case lost:
			err = nil
		default:
			err = kiln.Errorf(kiln.KindOf(err), "snapshot %q was replaced, but not all of the old one was removed: %w", name,
				err)
		}
	}
	if err := renameSnapshot(ctx, at, made, name); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "%w; the new snapshot is there as %q", err, temp)
	}
	return err
}

func (a *app) snapshotListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]<instance>", Short: "List snapshots",
		Args: cobra.ExactArgs(1)}
	letters := columnsFlag(c, "nTES", snapshotColumns(), "")
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		columns, err := choose(snapshotColumns(), *letters, nil)
		if err != nil {
			return err
		}
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		list, err := client.List[api.InstanceSnapshot](c.Context(), at.Client, snapshotsPath(at.Name), 1)
		if err != nil {
			return a.suggest(c.Context(), at, err)
		}
		return show(a, *form, columns, list)
	}
	return c
}

func snapshotColumns() []column[api.InstanceSnapshot] {
	type snapshot = api.InstanceSnapshot
	return []column[snapshot]{
		col('n', "NAME", func(s snapshot) string { return s.Name }),
		col('T', "TAKEN AT", func(s snapshot) string { return minute(s.CreatedAt) }),
		col('E', "EXPIRES AT", func(s snapshot) string { return minute(s.ExpiresAt) }),
		colBytes('S', "SIZE", func(s snapshot) int64 { return s.Size }),
		col('s', "STATEFUL", func(s snapshot) string { return strings.ToUpper(yesNo(s.Stateful)) }),
	}
}

// printSnapshots is the end of kiln info.
func (a *app) printSnapshots(ctx context.Context, at place.Place) error {
	list, err := client.List[api.InstanceSnapshot](ctx, at.Client, snapshotsPath(at.Name), 1)
	if err != nil || len(list) == 0 {
		return err
	}
	a.print("\nSnapshots:")
	columns, err := choose(snapshotColumns(), "nTES", nil)
	if err != nil {
		return err
	}
	return show(a, "table", columns, list)
}

func (a *app) snapshotShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show [<remote>:]<instance> <snapshot>", Short: "Show a snapshot as YAML",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error { return a.showSnapshot(c.Context(), args) }}
}

func (a *app) showSnapshot(ctx context.Context, args []string) error {
	at, instance, snap, err := snapshotOf(a, args)
	if err != nil {
		return err
	}
	var s api.InstanceSnapshot
	if _, err := at.Get(ctx, snapshotPath(instance, snap), nil, &s); err != nil {
		return err
	}
	return a.yaml(s)
}

func (a *app) snapshotDeleteCmd() *cobra.Command {
	return &cobra.Command{Use: "delete [<remote>:]<instance> <snapshot>...",
		Short: "Delete snapshots", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if strings.Contains(args[0], "/") {
				return a.deleteAll(c.Context(), args, a.oneSnapshot, "")
			}
			if len(args) == 1 {
				return usageError{fmt.Errorf("missing argument: <snapshot>; usage: %s", c.UseLine())}
			}
			return a.deleteAll(c.Context(), args[1:], func(ctx context.Context, snap string) (thing, error) {
				return a.oneSnapshot(ctx, args[0]+"/"+snap)
			}, "")
		}}
}

// oneSnapshot finds the snapshot that a word means: "c1/s0".
func (a *app) oneSnapshot(ctx context.Context, word string) (thing, error) {
	at, instance, snap, err := snapshotOf(a, []string{word})
	if err != nil {
		return thing{}, err
	}
	t := thing{at, snapshotPath(instance, snap), at.Name}
	_, err = at.Get(ctx, t.path, nil, nil)
	return t, err
}

func (a *app) snapshotRenameCmd() *cobra.Command {
	return &cobra.Command{Use: "rename [<remote>:]<instance> <snapshot> <new-name>",
		Short: "Rename a snapshot", Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			at, instance, snap, err := snapshotOf(a, args[:2])
			if err != nil {
				return err
			}
			return renameSnapshot(c.Context(), at, snapshotPath(instance, snap), args[2])
		}}
}

func (a *app) restoreCmd() *cobra.Command {
	c := &cobra.Command{Use: "restore [<remote>:]<instance> <snapshot>",
		Short: "Restore an instance from a snapshot", Args: cobra.RangeArgs(1, 2),
		Long: "Restore an instance from a snapshot: its files and its configuration. What was changed since is " +
			"lost, unless another snapshot has it. An instance that runs is killed and started again."}
	stateful := c.Flags().Bool("stateful", false, "also restore the memory of the instance")
	_ = c.Flags().MarkHidden("stateful")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *stateful {
			return kiln.Errorf(kiln.Unsupported, "stateful snapshots are not supported: kiln keeps the files of an instance, "+
				"not its memory; leave --stateful out")
		}
		at, instance, snap, err := snapshotOf(a, args)
		if err != nil {
			return err
		}
		return at.Change(c.Context(), http.MethodPut, instancePath(instance), api.InstancePut{Restore: snap}, "")
	}
	return c
}

// snapshotOf is SnapshotOf, whose mistakes are mistakes in the command line.
func snapshotOf(a *app, args []string) (at place.Place, instance, snap string, err error) {
	at, instance, snap, err = a.SnapshotOf(args)
	if errors.Is(err, kiln.Invalid) {
		err = usageError{err}
	}
	return at, instance, snap, err
}
