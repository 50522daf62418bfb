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

// volumesPath is where the volumes of a type are.
func volumesPath(pool, kind string) string { return client.Path(poolPath(pool)+"/volumes", kind) }

// volumeTypes are those of LXD.
func volumeTypes() []string { return []string{"custom", "container", "image", "virtual-machine"} }

// parseVolume takes apart what names a volume, "data" or "custom/data", or, of an instance,
// "container/c1"; or a snapshot of one, "data/snap0".
func parseVolume(word string) (kind, name, snap string) {
	kind, name = "custom", word
	if first, rest, ok := strings.Cut(word, "/"); ok && slices.Contains(volumeTypes(), first) {
		kind, name = first, rest
	}
	name, snap, _ = strings.Cut(name, "/")
	return kind, name, snap
}

// volumePath is where the volume or the snapshot is that a word means.
func volumePath(pool, word string) string {
	kind, name, snap := parseVolume(word)
	path := client.Path(volumesPath(pool, kind), name)
	if snap != "" {
		path = client.Path(path+"/snapshots", snap)
	}
	return path
}

func (a *app) volumeCmd() *cobra.Command {
	c := &cobra.Command{Use: "volume", Short: "Manage storage volumes"}
	verb := func(use, short string, n cobra.PositionalArgs, f verbFunc) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: n, RunE: func(c *cobra.Command, args []string) error {
			return f(c.Context(), args)
		}})
	}
	c.AddCommand(a.volumeCreateCmd(), a.volumeListCmd(), a.volumeSnapshotCmd(), a.volumeRestoreCmd(), a.volumeCopyCmd(),
		a.volumeMoveCmd(), a.volumeExportCmd(), a.volumeImportCmd())
	a.volumeVerbs(verb)
	a.volumeKeyVerbs(verb)
	a.volumeUseVerbs(verb)
	return c
}

func (a *app) volumeCreateCmd() *cobra.Command {
	c := &cobra.Command{Use: "create [<remote>:]<pool> <volume> [<key>=<value>...]", Short: "Create a storage volume",
		Args: cobra.MinimumNArgs(2)}
	content := c.Flags().String("type", "filesystem", "content of the volume: filesystem")
	description := c.Flags().String("description", "", "description of the volume")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		config, err := pairs(args[2:])
		if err != nil {
			return err
		}
		post := api.StorageVolumesPost{Name: strings.TrimPrefix(args[1], "custom/"), Type: "custom", ContentType: *content,
			StorageVolumePut: api.StorageVolumePut{Config: config, Description: *description}}
		if err := at.Change(c.Context(), http.MethodPost, poolPath(at.Name)+"/volumes/custom", post, ""); err != nil {
			return err
		}
		a.say("Storage volume %s created", post.Name)
		return nil
	}
	return c
}

func (a *app) volumeListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]<pool>", Short: "List storage volumes",
		Args: cobra.ExactArgs(1)}
	show := listFlags(a, c, "tndcu", []column[api.StorageVolume]{
		col('e', "PROJECT", func(v api.StorageVolume) string { return v.Project }),
		col('t', "TYPE", func(v api.StorageVolume) string {
			if strings.Contains(v.Name, "/") {
				return v.Type + " (snapshot)"
			}
			return v.Type
		}),
		col('n', "NAME", func(v api.StorageVolume) string { return v.Name }),
		col('d', "DESCRIPTION", func(v api.StorageVolume) string { return v.Description }),
		col('c', "CONTENT-TYPE", func(v api.StorageVolume) string { return v.ContentType }),
		col('u', "USED BY", func(v api.StorageVolume) string { return fmt.Sprint(len(v.UsedBy)) }),
	})
	a.allProjectsFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		all, err := client.List[api.StorageVolume](c.Context(), at.Client, poolPath(at.Name)+"/volumes", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	return c
}

// A heldVolume is a volume, or a snapshot of one, as it was when it was read, and where.
type heldVolume struct {
	snap string // "": it is a volume
	api.StorageVolume
	app  *app
	at   place.Place
	path string
	tag  string
}

// volume reads a volume. A snapshot isn't one.
func (a *app) volume(ctx context.Context, pool, name string) (heldVolume, error) {
	v, err := a.volumeOrSnapshot(ctx, pool, name)
	if err == nil && v.snap != "" {
		err = kiln.Errorf(kiln.Invalid, "%q is a snapshot of a storage volume; this is for volumes only; see: kiln storage "+
			"volume --help", name)
	}
	return v, err
}

func (a *app) volumeOrSnapshot(ctx context.Context, pool, name string) (v heldVolume, err error) {
	v.app = a
	_, _, v.snap = parseVolume(name)
	if v.at, err = a.At(pool); err != nil {
		return v, err
	}
	v.path = volumePath(v.at.Name, name)
	v.tag, err = v.at.Get(ctx, v.path, nil, &v.StorageVolume)
	if v.Config == nil {
		v.Config = map[string]string{}
	}
	if v.snap != "" && err == nil {
		v.Name, v.Type = name, ""
	}
	if !strings.Contains(name, "/") {
		err = a.typed(v.at, missingVolume(ctx, v.at, v.at.Name, name, err))
	}
	return v, err
}

// missingVolume is missing for a storage volume of a pool.
func missingVolume(ctx context.Context, at place.Place, pool, name string, err error) error {
	if kiln.KindOf(err) != kiln.NotFound {
		return err
	}
	known, lerr := nameList(ctx, at, volumesPath(pool, "custom"))
	if lerr != nil || slices.Contains(known, name) {
		return err
	}
	return place.Missing("storage volume", name, known)
}

// save writes what can be changed of a volume.
func (v heldVolume) save(ctx context.Context) error {
	return v.app.change(ctx, v.at, v.path, v.StorageVolumePut, v.tag)
}

// volumeVerbs are the verbs about whole volumes.
func (a *app) volumeVerbs(verb addVerb) {
	const of = " [<remote>:]<pool> [<type>/]<volume>"
	verb("show"+of, "Show a storage volume as YAML", cobra.ExactArgs(2), func(ctx context.Context, args []string) error {
		v, err := a.volumeOrSnapshot(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		if v.snap == "" {
			return a.yaml(v.StorageVolume)
		}
		var s api.StorageVolumeSnapshot
		if _, err := v.at.Get(ctx, v.path, nil, &s); err != nil {
			return err
		}
		return a.yaml(s)
	})
	verb("info"+of, "Show the disk usage of a storage volume", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			v, err := a.volume(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			var st api.StorageVolumeState
			if _, err := v.at.Get(ctx, v.path+"/state", nil, &st); err != nil {
				return err
			}
			err = a.value(strings.Join([]string{"Name: " + v.Name, "Description: " + v.Description, "Type: " + v.Type,
				"Content type: " + v.ContentType, "Usage: " + size(int64(st.Usage.Used)), "Created: " + minute(v.CreatedAt),
				"Used by: " + strings.Join(v.UsedBy, " ")}, "\n"))
			if err != nil {
				return err
			}
			return a.printVolumeSnapshots(ctx, v)
		})
	verb("edit"+of, "Edit a storage volume", cobra.ExactArgs(2), func(ctx context.Context, args []string) error {
		v, err := a.volumeOrSnapshot(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		if v.snap != "" {
			return a.editVolumeSnapshot(ctx, v)
		}
		return edit(a, editHelp, v.StorageVolumePut, v.StorageVolume, v.tag,
			func(put api.StorageVolumePut, tag string) error { return a.change(ctx, v.at, v.path, put, tag) })
	})
	verb("rename [<remote>:]<pool> <volume> <new-volume>", "Rename an unused storage volume, or a snapshot of one",
		cobra.ExactArgs(3), func(ctx context.Context, args []string) error {
			v, err := a.volumeOrSnapshot(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			to := args[2]
			if v.snap != "" { // "data/snap1" is as good as "snap1"
				to = strings.TrimPrefix(to, strings.TrimSuffix(args[1], v.snap))
			}
			if err := v.at.Change(ctx, http.MethodPost, v.path, api.StorageVolumePost{Name: to}, ""); err != nil {
				return err
			}
			a.say("Storage volume %s renamed to %s", v.Name, args[2])
			return nil
		})
	verb("delete [<remote>:]<pool> <volume>...", "Delete unused storage volumes, or snapshots of them",
		cobra.MinimumNArgs(2), func(ctx context.Context, args []string) error {
			return a.deleteAll(ctx, args[1:], func(ctx context.Context, word string) (thing, error) {
				v, err := a.volumeOrSnapshot(ctx, args[0], word)
				return thing{v.at, v.path, v.Name}, err
			}, "Storage volume %s deleted")
		})
}

// volumeKeyVerbs are the verbs about keys of a volume.
func (a *app) volumeKeyVerbs(verb addVerb) {
	const of = " [<remote>:]<pool> <volume> "
	verb("get"+of+"<key>", "Show the value of a key of a storage volume", cobra.ExactArgs(3),
		func(ctx context.Context, args []string) error {
			v, err := a.volume(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.value(v.Config[args[2]])
		})
	verb("set"+of+"<key>=<value>...", "Set keys of a storage volume", cobra.MinimumNArgs(3),
		func(ctx context.Context, args []string) error {
			change, err := assignments(args[2:])
			if err != nil {
				return err
			}
			v, err := a.volume(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			maps.Copy(v.Config, change)
			return v.save(ctx)
		})
	verb("unset"+of+"<key>", "Unset a key of a storage volume", cobra.ExactArgs(3),
		func(ctx context.Context, args []string) error {
			v, err := a.volume(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			delete(v.Config, args[2])
			return v.save(ctx)
		})
}

// volumeUseVerbs are the verbs that give volumes to instances and profiles.
func (a *app) volumeUseVerbs(verb addVerb) {
	type finder = func(context.Context, string) (holder, error)
	attach := func(find finder) verbFunc {
		return func(ctx context.Context, args []string) error {
			v, h, err := a.volumeAndHolder(ctx, args, find)
			if err != nil {
				return err
			}
			device, at := v.Name, args[len(args)-1]
			if len(args) == 5 {
				device = args[3]
			}
			if _, there := h.devices[device]; there {
				return kiln.Errorf(kiln.Conflict, "The device %q already exists; to give the new one another name, write that "+
					"after %q", device, args[2])
			}
			if h.devices == nil {
				h.devices = map[string]map[string]string{}
			}
			h.devices[device] = map[string]string{"type": "disk", "pool": v.at.Name, "source": v.Name, "path": at}
			return h.save(h.devices)
		}
	}
	detach := func(find finder) verbFunc {
		return func(ctx context.Context, args []string) error {
			v, h, err := a.volumeAndHolder(ctx, args, find)
			if err != nil {
				return err
			}
			var found []string
			for name, d := range h.devices {
				if d["type"] == "disk" && d["pool"] == v.at.Name && d["source"] == v.Name && (len(args) < 4 || args[3] == name) {
					found = append(found, name)
				}
			}
			slices.Sort(found)
			switch len(found) {
			case 1:
				delete(h.devices, found[0])
				return h.save(h.devices)
			case 0:
				return kiln.Errorf(kiln.NotFound, "%q has no device of its own that shows the storage volume %q", args[2], v.Name)
			}
			return kiln.Errorf(kiln.Invalid, "%q has several devices that show the storage volume %q; name one: %s", args[2],
				v.Name, strings.Join(found, ", "))
		}
	}
	const of = " [<remote>:]<pool> <volume> "
	verb("attach"+of+"<instance> [<device>] <path>", "Attach a storage volume to an instance", cobra.RangeArgs(4, 5),
		attach(a.instanceHolder))
	verb("attach-profile"+of+"<profile> [<device>] <path>", "Attach a storage volume to a profile",
		cobra.RangeArgs(4, 5), attach(a.profileHolder))
	verb("detach"+of+"<instance> [<device>]", "Detach a storage volume from an instance", cobra.RangeArgs(3, 4),
		detach(a.instanceHolder))
	verb("detach-profile"+of+"<profile> [<device>]", "Detach a storage volume from a profile",
		cobra.RangeArgs(3, 4), detach(a.profileHolder))
}

// volumeAndHolder finds a volume, and what is to have it, on the same server.
func (a *app) volumeAndHolder(ctx context.Context, args []string, find func(context.Context, string) (holder,
	error)) (heldVolume, holder, error) {
	v, err := a.volume(ctx, args[0], args[1])
	if err != nil {
		return v, holder{}, err
	}
	if v.Type != "custom" {
		return v, holder{}, kiln.Errorf(kiln.Invalid, "%q is not a storage volume of type custom; no instance can have it "+
			"beside its own", args[1])
	}
	to, err := v.at.SameServer(args[2])
	if err != nil {
		return v, holder{}, usageError{err}
	}
	h, err := find(ctx, to.Word())
	return v, h, err
}
