package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// defaultProfile is the profile that always exists.
const defaultProfile = "default"

// A Profile is a profile and the instances that use it, of whatever project.
type Profile struct {
	db.Profile
	UsedBy []db.Name
}

// Profiles gives every profile, by name.
func (d *Daemon) Profiles(ctx context.Context) ([]Profile, error) {
	rows, err := d.db.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	instances, err := d.instances.List(project.InAll(ctx))
	if err != nil {
		return nil, err
	}
	list := make([]Profile, 0, len(rows))
	for _, r := range rows {
		list = append(list, withUsers(r, instances))
	}
	return list, nil
}

// Profile gives one profile. The error is NotFound.
func (d *Daemon) Profile(ctx context.Context, name string) (Profile, error) {
	r, err := d.db.Profile(ctx, name)
	if err != nil {
		return Profile{}, err
	}
	instances, err := d.instances.List(project.InAll(ctx))
	return withUsers(r, instances), err
}

func withUsers(r db.Profile, instances []instance.Instance) Profile {
	p := Profile{Profile: r, UsedBy: []db.Name{}}
	for _, i := range instances {
		if i.Uses(r) {
			p.UsedBy = append(p.UsedBy, db.Name{Project: i.Project, Name: i.Name})
		}
	}
	return p
}

// CreateProfile makes a profile. Errors: Invalid, Conflict, Unsupported.
func (d *Daemon) CreateProfile(ctx context.Context, p db.Profile) error {
	release, err := instance.UseNetworks(d.networks, p.Devices)
	if err != nil {
		return err
	}
	defer release()
	audit.About(ctx, "", profileURL(p.Name))
	noteChange(ctx, settled{}, settled{p.Config, p.Devices, nil})
	if err := cmp.Or(checkProfile(p), instance.CheckAnew(nil, p.Devices), instance.CheckProfilePaths(db.Profile{}, p),
		d.checkNics(ctx, p)); err != nil {
		return err
	}
	p.Config = withoutEmpty(p.Config)
	if err := d.db.CreateProfile(ctx, p); err != nil {
		if errors.Is(err, kiln.Conflict) {
			return kiln.Errorf(kiln.Conflict, "Profile '%s' already exists; give another name, or change that one: kiln "+
				"profile edit %[1]s", p.Name)
		}
		return err
	}
	d.tell(ctx, "profile-created", profileURL(p.Name), nil)
	return nil
}

// UpdateProfile replaces a profile's description, configuration and devices by what
// change makes of it; nobody else changes it meanwhile. The limits of instances that
// run follow; the warnings say what takes effect later.
// Errors: Invalid, NotFound, Unsupported, and change's.
func (d *Daemon) UpdateProfile(ctx context.Context, name string, change func(db.Profile) (db.Profile, error)) (
	warnings []string, err error) {
	d.profileEdits.Lock() // the limits of instances follow in the order of the changes
	defer d.profileEdits.Unlock()
	var before db.Profile
	release := func() {}
	defer func() { release() }() // when there is a row
	err = d.db.EditProfile(ctx, name, func(p *db.Profile) error {
		before = *p
		next, err := change(before)
		if err != nil {
			return err
		}
		next.Name, next.Config = name, withoutEmpty(next.Config)
		*p = next
		noteChange(ctx, settled{before.Config, before.Devices, nil}, settled{next.Config, next.Devices, nil})
		release() // of a try before
		if release, err = instance.UseNetworks(d.networks, next.Devices); err != nil {
			release = func() {}
			return err
		}
		return cmp.Or(checkProfile(next), instance.CheckAnew(before.Devices, next.Devices),
			instance.CheckProfilePaths(before, next), d.checkNics(ctx, next),
			d.instances.CheckProfile(ctx, before, next))
	})
	if err != nil {
		return nil, err
	}
	d.tell(ctx, "profile-updated", profileURL(name), nil)
	return d.instances.ProfileChanged(ctx, before)
}

// withoutEmpty is a configuration without the keys that were unset: that is how clients
// say it.
func withoutEmpty(config map[string]string) map[string]string {
	out := maps.Clone(config)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	return out
}

// checkNics says whether the networks of a profile's interfaces are there.
func (d *Daemon) checkNics(ctx context.Context, p db.Profile) error {
	for _, name := range slices.Sorted(maps.Keys(p.Devices)) {
		if nic := p.Devices[name]; nic["type"] == "nic" {
			if err := d.networks.Check(ctx, nic); err != nil {
				return kiln.Errorf(kiln.KindOf(err), "Device %q: %w", name, err)
			}
		}
	}
	return nil
}

func checkProfile(p db.Profile) error {
	if err := checkProfileName(p.Name); err != nil {
		return err
	}
	for key := range p.Config {
		if key == "volatile.uuid" {
			return kiln.Errorf(kiln.Invalid, "%q is for instances only", key)
		}
	}
	if err := kiln.CheckDescription(p.Description); err != nil {
		return err
	}
	if err := instance.CheckOptions(p.Config); err != nil {
		return err
	}
	return instance.CheckDevices(p.Devices)
}

// checkProfileName accepts what can be one segment of a URL.
func checkProfileName(name string) error {
	ok := func(r rune) bool {
		return r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if name == "" || name == "." || name == ".." || len(name) > 63 ||
		slices.ContainsFunc([]rune(name), func(r rune) bool { return !ok(r) }) {
		return kiln.Errorf(kiln.Invalid, "Invalid profile name %q: it has 1 to 63 letters, digits and - _ .", name)
	}
	return nil
}

// RenameProfile gives a profile another name, wherever it is used.
// Errors: Invalid, NotFound, Conflict.
func (d *Daemon) RenameProfile(ctx context.Context, from, to string) error {
	if from == defaultProfile {
		return kiln.Errorf(kiln.Invalid, "The profile \"default\" can't be renamed")
	}
	if err := checkProfileName(to); err != nil {
		return err
	}
	if err := d.db.RenameProfile(ctx, from, to); err != nil {
		return err
	}
	d.tell(ctx, "profile-renamed", profileURL(to), map[string]any{"old_name": from})
	return nil
}

// DeleteProfile removes a profile that no instance uses, also from images.
// Errors: Invalid, NotFound, Conflict.
func (d *Daemon) DeleteProfile(ctx context.Context, name string) error {
	if name == defaultProfile {
		return kiln.Errorf(kiln.Invalid, "The profile \"default\" can't be deleted")
	}
	if err := d.db.DeleteProfile(ctx, name); err != nil {
		return err
	}
	d.tell(ctx, "profile-deleted", profileURL(name), nil)
	return nil
}

// checkProfiles says which of the names of profiles, which an image is to have, is none.
// A restricted client can't have an image give others' instances access to the host.
// Errors: NotFound, Denied.
func (d *Daemon) checkProfiles(ctx context.Context, names []string) error {
	rows, err := d.db.Profiles(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range rows {
		known[r.Name] = true
	}
	for _, n := range names {
		if !known[n] {
			return kiln.Errorf(kiln.NotFound, "Profile '%s' doesn't exist%s; see: kiln profile list", n,
				kiln.DidYouMean(n, slices.Collect(maps.Keys(known))))
		}
	}
	return d.instances.CheckAccess(ctx, instance.Config{Profiles: names})
}

func profileURL(name string) string { return "/1.0/profiles/" + name }
