package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// Update replaces what a user may change by what change makes of it; nobody else
// changes it meanwhile. Keys that kiln keeps for itself, volatile.*, stay as they are.
// Limits hold at once, and devices come and go at once; the warnings say what takes effect later.
// Errors: NotFound, Denied, Invalid, Conflict when the instance runs and can't have the change
// then, and change's.
func (s *Set) Update(ctx context.Context, name string, change func(Instance) (Config, error)) (warnings []string,
	err error) {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if i.Options[UUIDKey] == "" {
		return nil, kiln.Errorf(kiln.Integrity, "instance %q can't be changed: %s; delete it, or bring a copy of the "+
			"database back: kiln admin restore-database", name, i.Problem)
	}
	c, err := change(i)
	if err != nil {
		return nil, err
	}
	if from := i.Options[refreshedKey]; from != "" && c.Options[UUIDKey] == from {
		c.Options = Lasting(c.Options) // the other one's, as lxc copy --refresh ends: what its server keeps isn't for here
	}
	if err := s.checkAccess(ctx, "the instance", c, i.Config); err != nil {
		return nil, err
	}
	if err := s.checkRules(ctx, "the instance", c, i.Config); err != nil {
		return nil, err
	}
	if err := cmp.Or(s.check(ctx, c), CheckAnew(i.Devices, c.Devices)); err != nil {
		return nil, err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(c.Profiles, i.Profiles) {
		if err := once(c.Profiles); err != nil {
			return nil, err
		}
	}
	used, err := pick(c.Profiles, profiles)
	if err != nil {
		return nil, err
	}
	next := i
	next.ExpandedConfig, next.ExpandedDevices = expand(c, used)
	if err := checkPaths(i.ExpandedDevices, next.ExpandedDevices); err != nil {
		return nil, err
	}
	changed := changedDevices(i.ExpandedDevices, next.ExpandedDevices)
	release, err := s.Use(ctx, changed)
	if err != nil {
		return nil, err
	}
	defer release()
	undo := func() error { return nil }
	if l := s.runs(i.Options[UUIDKey]); l != nil {
		warnings = atNextStart(i.ExpandedConfig, next.ExpandedConfig)
		var said []string
		err = l.steady(name, func() (err error) {
			said, undo, err = s.replug(ctx, next, l, next.ExpandedDevices,
				changedNames(i.ExpandedDevices, next.ExpandedDevices))
			return err
		})
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, said...)
	}
	if err := s.relimit(ctx, i, next); err != nil {
		return nil, errors.Join(err, undo())
	}
	saving := ctx
	if lessens(i.Config, c) { // also on a full disk
		saving = db.Freeing(ctx)
	}
	if err := s.saveConfig(saving, i, c, next.ExpandedDevices); err != nil {
		return nil, errors.Join(err, s.relimit(context.WithoutCancel(ctx), next, i), undo())
	}
	s.guestChanged(i, next)
	s.notify(ctx, Change{Name: name, Action: "updated"})
	warnings = append(warnings, unboundWrites(changedDevices(i.Devices, c.Devices))...)
	return append(warnings, NoEffect(added(i.Options, c.Options))...), nil
}

// lessens reports whether a configuration is a part of what it was.
func lessens(was, is Config) bool {
	part := func(a, b map[string]string) bool { return len(added(a, b)) == 0 }
	return is.Description == was.Description && is.Ephemeral == was.Ephemeral && slices.Equal(is.Profiles, was.Profiles) &&
		part(was.Options, is.Options) && len(changedDevices(was.Devices, is.Devices)) == 0
}

// changedDevices are those of the next devices that weren't the same before: what has
// gone of the others since is no reason to refuse another change.
func changedDevices(now, next map[string]map[string]string) map[string]map[string]string {
	changed := maps.Clone(next)
	maps.DeleteFunc(changed, func(name string, d map[string]string) bool { return maps.Equal(now[name], d) })
	return changed
}

// saveConfig writes the configuration of an instance down, which gives it devices.
func (s *Set) saveConfig(ctx context.Context, i Instance, c Config, devices map[string]map[string]string) error {
	return s.db.EditInstance(ctx, i.Name, func(r *db.Instance) error {
		options := map[string]string{}
		for k, v := range r.Config {
			if strings.HasPrefix(k, volatilePrefix) {
				options[k] = v
			}
		}
		for k, v := range c.Options {
			switch {
			case k == readyKey: // it may have changed by itself since somebody looked
			case strings.HasPrefix(k, volatilePrefix):
				if has, ok := i.Options[k]; v != has && (ok || v != "") {
					return kiln.Errorf(kiln.Invalid, "%q can't be changed: kiln keeps it for itself", k)
				}
			case v != "":
				options[k] = v
			}
		}
		r.Description, r.Ephemeral, r.Profiles, r.Devices = c.Description, c.Ephemeral, c.Profiles, c.Devices
		r.Config = options
		maps.DeleteFunc(r.Config, func(k, _ string) bool {
			device := strings.TrimSuffix(strings.TrimPrefix(k, volatilePrefix), addressSuffix)
			return IsAddressKey(k) && !keepsAddress(devices[device])
		})
		for device, d := range devices {
			if keepsAddress(d) {
				r.Config[AddressKey(device)] = Address(r.Config, device, d).String()
			}
		}
		return nil
	})
}

// relimit gives the box of an instance that runs the limits of its next
// configuration; when that fails, again those that it had.
func (s *Set) relimit(ctx context.Context, now, next Instance) error {
	l := s.runs(now.Options[UUIDKey])
	if l == nil {
		return nil
	}
	limits := s.limits
	if reflect.DeepEqual(limitedDisks(now), limitedDisks(next)) {
		limits = limitsKeepingDisks // whatever became of their files
	}
	has, err := limits(ctx, now)
	want, wrong := limits(ctx, next)
	if wrong != nil {
		return wrong
	}
	if err == nil && reflect.DeepEqual(has, want) {
		return nil // also the choice of processors stays
	}
	if err := l.steady(now.Name, func() error { return l.box.SetLimits(want) }); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "limits of instance %q: %w", now.Name, errors.Join(err, l.box.SetLimits(has)))
	}
	return nil
}

// limitAgain gives a container that rebooted by itself the limits of today: it came
// back with those of its start.
func (s *Set) limitAgain(ctx context.Context, name string, l *live) error {
	i, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	want, err := s.limits(ctx, i) // those that are known, whatever one of its disks is like
	return errors.Join(err, l.box.SetLimits(want))
}

// CheckProfile refuses a change of a profile that takes instances the root disk that they
// have by it: nothing could be changed of them any more; and one that gives them a disk
// where they have another. The error is Conflict.
func (s *Set) CheckProfile(ctx context.Context, before, next Profile) error {
	if len(changedNames(before.Devices, next.Devices)) == 0 {
		return nil
	}
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	profiles[before.Name] = next
	var lack []string
	for _, i := range list {
		if !i.Uses(before) {
			continue
		}
		used, err := pick(i.Profiles, profiles)
		if err != nil {
			continue // shown as broken
		}
		_, devices := expand(i.Config, used)
		if hasRoot(i.ExpandedDevices) && !hasRoot(devices) {
			lack = append(lack, i.Name)
		}
		if err := checkPaths(i.ExpandedDevices, devices); err != nil {
			return kiln.Errorf(kiln.Conflict, "instance %q, which has the profile %q: %w", i.Name, before.Name, err)
		}
	}
	if len(lack) == 0 {
		return nil
	}
	who := strings.Join(lack[:min(len(lack), 5)], ", ")
	if more := len(lack) - 5; more > 0 {
		who += fmt.Sprintf(" and %d more", more)
	}
	return kiln.Errorf(kiln.Conflict, "the root disk of these instances comes from the profile %q: %s; give each its own "+
		"first: kiln config device override %s <device>", before.Name, who, lack[0])
}

// ProfileChanged gives the running instances that use a profile their new limits and
// devices.
// before is what the profile was. The warnings say what holds later, or not at all.
func (s *Set) ProfileChanged(ctx context.Context, before Profile) (warnings []string, err error) {
	list, err := s.List(project.InAll(ctx)) // others may have the default project's profiles
	if err != nil {
		return nil, err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return nil, err
	}
	warnings = append(NoEffect(added(before.Config, profiles[before.Name].Config)),
		unboundWrites(changedDevices(before.Devices, profiles[before.Name].Devices))...)
	// A profile may be for what other hosts have, or this one later.
	if err := s.checkSources(ctx, changedDevices(before.Devices, profiles[before.Name].Devices)); err != nil {
		warnings = append(warnings, err.Error())
	}
	profiles[before.Name] = before
	for _, i := range list {
		if i.Status == Stopped || !i.Uses(before) {
			continue
		}
		used, err := pick(i.Profiles, profiles)
		if err != nil {
			continue // shown as broken, and runs as it was started
		}
		was := i
		was.ExpandedConfig, was.ExpandedDevices = expand(i.Config, used)
		if err := s.relimit(ctx, was, i); err != nil {
			warnings = append(warnings, fmt.Sprintf("the profile was changed, but: %v", err))
		}
		s.guestChanged(was, i)
		later := atNextStart(was.ExpandedConfig, i.ExpandedConfig)
		if names := changedNames(was.ExpandedDevices, i.ExpandedDevices); len(names) > 0 {
			in, err := s.in(ctx, i.Project)
			if err != nil {
				return warnings, err
			}
			later = append(later, s.followProfile(Meaning(in, i), i.Name, names)...)
		}
		for _, w := range later {
			warnings = append(warnings, fmt.Sprintf("instance %q: %s", i.Name, w))
		}
	}
	return warnings, nil
}
