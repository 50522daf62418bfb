package cli

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) volumeSnapshotCmd() *cobra.Command {
	c := &cobra.Command{Use: "snapshot [<remote>:]<pool> <volume> [<name>]",
		Short: "Create a snapshot of a storage volume",
		Long: "Save the files of a storage volume. They are copied, and share their blocks with the volume's where the " +
			"file system can do that. Instances that run and have the volume stand still for a moment.",
		Args: cobra.RangeArgs(2, 3)}
	expires := expiryFlags(c)
	reuse := c.Flags().Bool("reuse", false, "replace the snapshot that has the name")
	c.RunE = func(c *cobra.Command, args []string) error {
		post := api.StorageVolumeSnapshotsPost{Name: strings.Join(args[2:], "")}
		var err error
		if post.ExpiresAt, err = expires(); err != nil {
			return err
		}
		v, err := a.volume(c.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		if *reuse && post.Name != "" {
			return replaceSnapshot(c.Context(), v.at, v.path+"/snapshots", post.Name, func(name string) error {
				post.Name = name
				return a.snapshotVolume(c.Context(), v, post)
			})
		}
		return a.snapshotVolume(c.Context(), v, post)
	}
	return c
}

func (a *app) snapshotVolume(ctx context.Context, v heldVolume, post api.StorageVolumeSnapshotsPost) error {
	request := client.Request{Method: http.MethodPost, Path: v.path + "/snapshots", Body: post}
	_, op, err := v.at.Do(ctx, request, nil)
	if err != nil {
		return err
	}
	if _, err := v.at.Wait(ctx, op.ID); err != nil {
		return err
	}
	if urls := op.Resources["storage_volume_snapshots"]; post.Name == "" && len(urls) > 0 {
		name, _, _ := strings.Cut(path.Base(urls[0]), "?")
		a.say("Snapshot name is: %s", name)
	}
	return nil
}

func (a *app) volumeRestoreCmd() *cobra.Command {
	return &cobra.Command{Use: "restore [<remote>:]<pool> <volume> <snapshot>",
		Short: "Restore a storage volume from a snapshot", Args: cobra.ExactArgs(3),
		Long: "Give a storage volume the files of a snapshot. What was changed since is lost, unless another snapshot " +
			"has it. No instance that runs may have the volume.",
		RunE: func(c *cobra.Command, args []string) error {
			v, err := a.volume(c.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return v.at.Change(c.Context(), http.MethodPut, v.path, api.StorageVolumePut{Restore: args[2]}, "")
		}}
}

func (a *app) volumeCopyCmd() *cobra.Command {
	c := &cobra.Command{Use: "copy [<remote>:]<pool>/<volume>[/<snapshot>] [<remote>:]<pool>/<new-volume>",
		Short: "Copy a storage volume, or a snapshot of one, on the same server",
		Args:  cobra.ExactArgs(2)}
	only := c.Flags().Bool("volume-only", false, "copy the volume without its snapshots")
	project := c.Flags().String("target-project", "", "project on the target")
	choiceFlag(c, "mode", "", pull, "", pull, push, relay) // which on one server are the same
	_ = c.Flags().MarkHidden("mode")                       // lxc has it
	c.RunE = func(c *cobra.Command, args []string) error {
		w, err := a.volumeWay(c, args, "copied")
		if err != nil {
			return err
		}
		volume := w.name
		if w.snap != "" {
			volume += "/" + w.snap
		}
		post := api.StorageVolumesPost{Name: w.newName, Type: "custom", ContentType: "filesystem",
			Source: api.StorageVolumeSource{Type: "copy", Name: volume, Pool: w.pool, VolumeOnly: *only}}
		to := w.at
		if *project != "" {
			post.Source.Project = current(to)
			to = a.InProject(to, *project)
		}
		if err := to.Change(c.Context(), http.MethodPost, volumesPath(w.newPool, "custom"), post, ""); err != nil {
			return missingVolume(c.Context(), w.at, w.pool, w.name, err)
		}
		a.say("Storage volume copied successfully")
		return nil
	}
	return c
}

// A volumeWay is from where to where a volume is copied or moved, on one server.
type volumeWay struct {
	at               place.Place
	pool, name, snap string
	newPool, newName string
}

// volumeWay reads two words such as default/data.
func (a *app) volumeWay(c *cobra.Command, args []string, done string) (w volumeWay, err error) {
	from, err := a.At(args[0])
	if err != nil {
		return w, err
	}
	if w.at, err = a.At(args[1]); err != nil {
		return w, err
	}
	pool, word, ok := strings.Cut(from.Name, "/")
	newPool, newName, ok2 := strings.Cut(w.at.Name, "/")
	if !ok || !ok2 {
		return w, usageError{fmt.Errorf("name the pool and the volume, as in default/data; usage: %s", c.UseLine())}
	}
	if from.Remote != w.at.Remote {
		return w, kiln.Errorf(kiln.Unsupported, "storage volumes can't be %s between servers by this version of kiln; "+
			"take it there in a file: kiln storage volume export, kiln storage volume import", done)
	}
	w.pool, w.newPool, w.newName = pool, newPool, strings.TrimPrefix(newName, "custom/")
	var kind string
	if kind, w.name, w.snap = parseVolume(word); kind != "custom" {
		return w, kiln.Errorf(kiln.Unsupported, "only storage volumes of type custom can be %s; for an instance: kiln %s",
			done, c.Name())
	}
	return w, nil
}

func (a *app) volumeMoveCmd() *cobra.Command {
	return &cobra.Command{Use: "move [<remote>:]<pool>/<volume> [<remote>:]<pool>/<new-volume>",
		Short: "Rename an unused storage volume, in the words of copy", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := a.volumeWay(c, args, "moved")
			if err != nil {
				return err
			}
			if w.snap != "" {
				return kiln.Errorf(kiln.Invalid, "%q is a snapshot of a storage volume; copy it: kiln storage volume copy",
					args[0])
			}
			post := api.StorageVolumePost{Name: w.newName, Pool: w.newPool}
			if err := w.at.Change(c.Context(), http.MethodPost, volumePath(w.pool, "custom/"+w.name), post, ""); err != nil {
				return missingVolume(c.Context(), w.at, w.pool, w.name, err)
			}
			a.say("Storage volume moved successfully")
			return nil
		}}
}

// editVolumeSnapshot changes what can be changed of a snapshot.
func (a *app) editVolumeSnapshot(ctx context.Context, v heldVolume) error {
	var s api.StorageVolumeSnapshot
	tag, err := v.at.Get(ctx, v.path, nil, &s)
	if err != nil {
		return err
	}
	return edit(a, editHelp, s.StorageVolumeSnapshotPut, s, tag, func(put api.StorageVolumeSnapshotPut, tag string) error {
		return a.change(ctx, v.at, v.path, put, tag)
	})
}

// printVolumeSnapshots is the end of kiln storage volume info.
func (a *app) printVolumeSnapshots(ctx context.Context, v heldVolume) error {
	list, err := client.List[api.StorageVolumeSnapshot](ctx, v.at.Client, v.path+"/snapshots", 1)
	if err != nil || len(list) == 0 {
		return err
	}
	a.print("\nSnapshots:")
	type snapshot = api.StorageVolumeSnapshot
	return show(a, "table", []column[snapshot]{
		col('n', "NAME", func(s snapshot) string { return path.Base(s.Name) }),
		col('d', "DESCRIPTION", func(s snapshot) string { return s.Description }),
		col('T', "TAKEN AT", func(s snapshot) string { return minute(s.CreatedAt) }),
		col('E', "EXPIRES AT", func(s snapshot) string {
			if s.ExpiresAt == nil {
				return ""
			}
			return minute(*s.ExpiresAt)
		}),
	}, list)
}
