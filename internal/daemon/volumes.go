package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Volume is a custom storage volume, and who has it among the devices, of whatever
// project.
type Volume struct {
	volume.Custom
	Instances, Profiles []db.Name
}

// volumeIn names a custom volume of the project that ctx is about.
func volumeIn(ctx context.Context, name string) (volume.CustomName, error) {
	in, err := project.One(ctx, project.Volumes)
	return volume.CustomName{In: in, Name: name}, err
}

// Volumes gives every custom storage volume of the projects that ctx is about, by name.
func (d *Daemon) Volumes(ctx context.Context) ([]Volume, error) {
	ins, all, err := project.Names(ctx, project.Volumes)
	if err == nil && all {
		ins, err = d.pool.CustomIns()
	}
	if err != nil {
		return nil, err
	}
	var list []volume.Custom
	for _, in := range ins {
		more, err := d.pool.Customs(in)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return d.withVolumeUsers(ctx, list...)
}

// Volume gives one custom storage volume. The error is NotFound.
func (d *Daemon) Volume(ctx context.Context, name string) (Volume, error) {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return Volume{}, err
	}
	c, err := d.pool.Custom(n)
	if err != nil {
		return Volume{}, err
	}
	list, err := d.withVolumeUsers(ctx, c)
	if err != nil {
		return Volume{}, err
	}
	return list[0], nil
}

// withVolumeUsers completes volumes by who has them: instances, with all that they have of
// profiles, and profiles.
func (d *Daemon) withVolumeUsers(ctx context.Context, all ...volume.Custom) ([]Volume, error) {
	list := make([]Volume, len(all))
	at := map[volume.CustomName]*Volume{}
	for i, c := range all {
		list[i].Custom = c
		at[c.CustomName] = &list[i]
	}
	scopes, err := d.db.Scopes(ctx)
	if err != nil {
		return nil, err
	}
	ctx = project.InAll(ctx)
	instances, err := d.instances.List(ctx)
	if err != nil {
		return nil, err
	}
	profiles, err := d.db.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	users := func(in string, lists ...map[string]map[string]string) map[*Volume]bool {
		found := map[*Volume]bool{}
		for _, devices := range lists {
			for _, dev := range devices {
				if v := at[volume.CustomName{In: scopes[in].Volumes, Name: instance.VolumeOf(dev)}]; v != nil {
					found[v] = true
				}
			}
		}
		return found
	}
	for _, i := range instances {
		for v := range users(i.Project, i.ExpandedDevices, i.Devices) {
			v.Instances = append(v.Instances, db.Name{Project: i.Project, Name: i.Name})
		}
	}
	for _, p := range profiles {
		for v := range users(p.Project, p.Devices) {
			v.Profiles = append(v.Profiles, db.Name{Project: p.Project, Name: p.Name})
		}
	}
	return list, nil
}

// A volumeClaim keeps a volume under its name, from before it is read until what is done with
// it is over: else another one may have the name by then.
type volumeClaim struct{ release func() }

// claimVolume is Volume for work that takes its time. Errors: NotFound, Conflict while its
// files are exchanged.
func (d *Daemon) claimVolume(ctx context.Context, name string) (v Volume, c *volumeClaim, err error) {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return v, nil, err
	}
	release, err := d.pool.UseCustom(n)
	if err != nil {
		return v, nil, err
	}
	if v, err = d.Volume(ctx, name); err != nil {
		release()
		return v, nil, err
	}
	return v, &volumeClaim{release}, nil
}

// keep hands on to an operation what ends the claim.
func (c *volumeClaim) keep() (release func()) {
	release, c.release = c.release, func() {}
	return release
}

// unlessKept ends a claim that no operation has.
func (c *volumeClaim) unlessKept() { c.release() }

// VolumeUsage is how many bytes the files of a custom volume take. The error is NotFound.
func (d *Daemon) VolumeUsage(ctx context.Context, name string) (int64, error) {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return 0, err
	}
	return d.pool.CustomUsage(ctx, n)
}

func volumeURL(name string) string {
	return "/1.0/storage-pools/default/volumes/custom/" + url.PathEscape(name)
}

// CreateVolume makes an empty custom storage volume. Errors: Invalid, Unsupported, TooLarge,
// Conflict.
func (d *Daemon) CreateVolume(ctx context.Context, name string, s volume.CustomState) error {
	if err := checkVolume(s); err != nil {
		return err
	}
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	s.Config, s.CreatedAt = withoutEmpty(s.Config), time.Now().UTC()
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	if err := d.stillIn(ctx, n); err != nil {
		return err
	}
	if err := d.pool.CreateCustom(n, s); err != nil {
		return err
	}
	d.tell(ctx, "storage-volume-created", volumeURL(name), nil)
	return nil
}

// UpdateVolume replaces what is said of a custom storage volume by what change makes of
// it; nobody else changes it meanwhile. Errors: NotFound, Invalid, Unsupported, TooLarge,
// Integrity, and change's.
func (d *Daemon) UpdateVolume(ctx context.Context, name string,
	change func(volume.CustomState) (volume.CustomState, error)) error {
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	err = d.pool.EditCustom(n, func(s *volume.CustomState) error {
		next, err := change(*s)
		if err != nil {
			return err
		}
		s.Description, s.Config = next.Description, withoutEmpty(next.Config)
		return checkVolume(*s)
	})
	if err == nil {
		d.tell(ctx, "storage-volume-updated", volumeURL(name), nil)
	}
	return err
}

// Bounds on what is said of one volume.
const (
	mostVolumeKeys = 1000
	mostVolumeText = 256 << 10 // bytes of the description, keys and values
)

// checkVolume says what can't be said of a volume. Errors: Invalid, Unsupported, TooLarge.
func checkVolume(s volume.CustomState) error {
	if err := kiln.CheckDescription(s.Description); err != nil {
		return err
	}
	text := len(s.Description)
	for _, key := range slices.Sorted(maps.Keys(s.Config)) {
		value := s.Config[key]
		text += len(key) + len(value)
		if err := checkVolumeKey(key, value); err != nil {
			return err
		}
	}
	if len(s.Config) > mostVolumeKeys || text > mostVolumeText {
		return kiln.Errorf(kiln.TooLarge, "a storage volume has at most %d keys, and %s of description, keys and values; "+
			"this one has %d and %s", mostVolumeKeys, kiln.FormatSize(mostVolumeText), len(s.Config),
			kiln.FormatSize(int64(text)))
	}
	return nil
}

// VolumeKeys are the configuration keys of a storage volume.
func VolumeKeys() []option.Key {
	return []option.Key{
		{Name: "security.shifted", Type: option.Bool().Or("true"),
			Help: "always true: several instances can have a volume, each with its own ids"},
		{Name: "snapshots.expiry", Type: option.Type{Name: "time", Check: func(v string) error {
			_, err := kiln.ParseExpiry(v, time.Now())
			return err
		}}, Help: "how long snapshots are kept, such as 7d; unset: until they are deleted"},
		{Name: "user.", Type: option.Text("text"), Help: "your own; kiln doesn't read it"},
	}
}

func checkVolumeKey(key, value string) error {
	foreign := []string{"snapshots.schedule", "snapshots.pattern", "block.", "zfs.", "lvm.", "btrfs.", "ceph.", "initial."}
	k, known := option.Find(VolumeKeys(), key)
	switch {
	case value == "": // it is taken away
	case strings.ContainsFunc(key, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return kiln.Errorf(kiln.Invalid, "the key %q has white space or control characters", key)
	case kiln.CheckDescription(value) != nil:
		return kiln.Errorf(kiln.Invalid, "the value of %q has control characters; leave them out", key)
	case known && k.Check(value) != nil:
		return kiln.Errorf(kiln.Invalid, "%s: %w", key, k.Check(value))
	case known && (key != "security.shifted" || kiln.IsTrue(value)):
	case known:
		return kiln.Errorf(kiln.Unsupported, "security.shifted=%s is not supported: several instances can always have a "+
			"volume, each with its own ids; leave it out", value)
	case key == "security.unmapped":
		return kiln.Errorf(kiln.Unsupported, "security.unmapped is not supported: the owners of the files of a volume are "+
			"always the instance's; leave it out")
	case key == "size" || strings.HasPrefix(key, "size."):
		return kiln.Errorf(kiln.Unsupported, "size is not supported: kiln doesn't bound what a storage volume takes; leave "+
			"it out")
	case slices.ContainsFunc(foreign, func(prefix string) bool { return strings.HasPrefix(key, prefix) }):
		return kiln.Errorf(kiln.Unsupported, "%s is not supported for storage volumes by this version of kiln; leave it out",
			key)
	default:
		return kiln.Errorf(kiln.Invalid, "Unknown configuration key: %q; a storage volume has security.shifted, "+
			"snapshots.expiry, and what begins with user.", key)
	}
	return nil
}

// RenameVolume gives a custom storage volume that nobody uses another name. Errors:
// NotFound, Invalid, Conflict.
func (d *Daemon) RenameVolume(ctx context.Context, from, to string) error {
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	n, err := volumeIn(ctx, from)
	if err != nil {
		return err
	}
	if err := d.pool.RenameCustom(n, to, func() error {
		_, err := d.unusedVolume(ctx, from, "renamed")
		return err
	}); err != nil {
		return err
	}
	d.tell(ctx, "storage-volume-renamed", volumeURL(to), map[string]any{"old_name": from})
	return nil
}

// DeleteVolume removes a custom storage volume that nobody uses, with its files. Errors:
// NotFound, Conflict.
func (d *Daemon) DeleteVolume(ctx context.Context, name string) error {
	d.volumeNames.Lock()
	defer d.volumeNames.Unlock()
	n, err := volumeIn(ctx, name)
	if err != nil {
		return err
	}
	var v Volume
	if err := d.pool.DeleteCustom(n, func() (err error) {
		v, err = d.unusedVolume(ctx, name, "deleted")
		return err
	}); err != nil {
		return err
	}
	d.tell(ctx, "storage-volume-deleted", volumeURL(name), nil)
	return d.backups.DeleteAll(v.Backups)
}

// unusedVolume gives a volume, unless somebody uses it. Errors: NotFound, Conflict.
func (d *Daemon) unusedVolume(ctx context.Context, name, planned string) (Volume, error) {
	v, err := d.Volume(ctx, name)
	if err != nil {
		return v, err
	}
	var who []string
	elsewhere := 0
	here := project.Name(ctx)
	note := func(kind string, all []db.Name) {
		for _, n := range all {
			switch {
			case n.Project == here:
				who = append(who, kind+" "+n.Name)
			case instance.IsRestricted(ctx): // which may not know of other projects
				elsewhere++
			default:
				who = append(who, fmt.Sprintf("%s %s of project %s", kind, n.Name, n.Project))
			}
		}
	}
	note("instance", v.Instances)
	note("profile", v.Profiles)
	if elsewhere > 0 {
		who = append(who, fmt.Sprintf("%d of other projects", elsewhere))
	}
	if len(who) == 0 {
		return v, nil
	}
	return v, kiln.Errorf(kiln.Conflict, "Storage volume %q can't be %s: it is used by %s; detach it first: kiln storage "+
		"volume detach default %s INSTANCE", name, planned, some(who), name)
}

// PoolUsers tells which instances and profiles have files in the pool, of every project.
func (d *Daemon) PoolUsers(ctx context.Context) (instances []instance.Instance, profiles []db.Profile,
	volumes []volume.Custom, err error) {
	ctx = project.InAll(ctx)
	if instances, err = d.instances.List(ctx); err != nil {
		return nil, nil, nil, err
	}
	all, err := d.db.Profiles(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, p := range all {
		if slices.ContainsFunc(slices.Collect(maps.Values(p.Devices)), func(dev map[string]string) bool {
			return dev["type"] == "disk" && (dev["pool"] == "default" || dev["path"] == "/")
		}) {
			profiles = append(profiles, p)
		}
	}
	ins, err := d.pool.CustomIns()
	for _, in := range ins {
		more, merr := d.pool.Customs(in)
		volumes, err = append(volumes, more...), cmp.Or(err, merr)
	}
	return instances, profiles, volumes, err
}

// ImageVolumes gives the images of the projects that ctx is about whose trees are in the
// pool, by fingerprint.
func (d *Daemon) ImageVolumes(ctx context.Context) ([]kiln.Image, error) {
	list, err := d.Images.List(ctx, store.Query{})
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(img kiln.Image) bool { return !d.pool.HasImage(img.Fingerprint) })
	slices.SortStableFunc(list, func(a, b kiln.Image) int {
		return strings.Compare(a.Fingerprint.String(), b.Fingerprint.String())
	})
	return list, nil
}
