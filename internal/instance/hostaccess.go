package instance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// hostKeys begin the keys that are of the host whatever their value is.
func hostKeys() []string {
	return []string{"raw.", "linux.kernel_modules", "linux.sysctl.", "limits.kernel.",
		"security.idmap.", "security.syscalls."}
}

// HostAccess tells which parts of a configuration let whoever is root in the instance
// reach the host: lines for the runtime, which can run programs there; the host's ids;
// files and devices of the host. Who isn't equivalent to the host's root may not set
// them, and a server that an instance is copied from isn't asked.
func HostAccess(options map[string]string, devices map[string]map[string]string) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(options)) {
		switch value := options[key]; {
		case value == "":
		case slices.ContainsFunc(hostKeys(), func(prefix string) bool { return strings.HasPrefix(key, prefix) }):
			list = append(list, key)
		case key == "security.privileged" && kiln.IsTrue(value):
			list = append(list, key+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		switch {
		case d["type"] == "none", d["type"] == "nic" && d["network"] != "" && d["parent"] == "",
			d["type"] == "disk" && !fromHost(d):
		case d["type"] == "nic" && d["parent"] == "":
			list = append(list, fmt.Sprintf("device %q: an interface of the host", name))
		case d["type"] == "nic":
			list = append(list, fmt.Sprintf("device %q: the host's interface %s", name, d["parent"]))
		case d["type"] == "disk":
			list = append(list, fmt.Sprintf("device %q: the host's %s", name, d["source"]))
		default:
			list = append(list, fmt.Sprintf("device %q of type %s", name, d["type"]))
		}
	}
	return list
}

type restrictedKey struct{}

// Restricted marks the work of a restricted client: whatever verb it goes through, it
// can't give an instance access to the host, nor to what is of other projects than these.
func Restricted(ctx context.Context, projects ...string) context.Context {
	return context.WithValue(ctx, restrictedKey{}, projects)
}

// IsRestricted reports whether ctx is the work of a restricted client.
func IsRestricted(ctx context.Context) bool { return ctx.Value(restrictedKey{}) != nil }

// checkVolumes refuses storage volumes that a restricted client may not know of: those of
// the default project, if that is another one. The error is Denied.
func checkVolumes(ctx context.Context, devices map[string]map[string]string) error {
	of, err := project.One(ctx, project.Volumes)
	if projects, _ := ctx.Value(restrictedKey{}).([]string); err != nil || of == project.Name(ctx) ||
		slices.Contains(projects, of) {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if VolumeOf(devices[name]) != "" {
			return kiln.Errorf(kiln.Denied, "not authorized: device %q: the storage volumes of project %q are those of the "+
				"%s project, which this client may not use", name, project.Name(ctx), of)
		}
	}
	return nil
}

// CheckAccess refuses the configuration of a new instance that a restricted client may
// not give it. The error is Denied.
func (s *Set) CheckAccess(ctx context.Context, c Config) error {
	return s.checkAccess(ctx, "the instance", c, Config{})
}

// checkAccess refuses what lets an instance, or what is made of its snapshot, reach the
// host, if ctx is a restricted client's work: of all that its options, devices and
// profiles come to, but for what it has already, which somebody else gave it, and what
// the default profile gives to everybody. The error is Denied.
func (s *Set) checkAccess(ctx context.Context, who string, want, has Config) error {
	if !IsRestricted(ctx) {
		return nil
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	all := func(c Config) (map[string]string, map[string]map[string]string) {
		var used []Profile
		for _, name := range c.Profiles {
			used = append(used, profiles[name]) // none is as one without anything
		}
		return expand(c, used)
	}
	options, devices := all(want)
	for _, given := range []Config{has, {Profiles: []string{"default"}}} {
		o, d := all(given)
		maps.DeleteFunc(options, func(k, v string) bool { return o[k] == v })
		maps.DeleteFunc(devices, func(name string, v map[string]string) bool { return maps.Equal(v, d[name]) })
	}
	if err := checkVolumes(ctx, devices); err != nil {
		return err
	}
	list := HostAccess(options, devices)
	if kiln.IsTrue(options["security.nesting"]) {
		list = append(list, "security.nesting") // which widens what of the kernel is in reach
	}
	for _, key := range holdKeys() {
		if options[key] != "" {
			return kiln.Errorf(kiln.Denied, "not authorized: a restricted client can't have other instances wait for one: "+
				"leave %s out", key)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return kiln.Errorf(kiln.Denied, "not authorized: a restricted client can't give an instance access to the host; %s "+
		"would have it: %s", who, strings.Join(list, ", "))
}

// snapshotConfig is the part of a snapshot that a restored instance has.
func snapshotConfig(r db.Snapshot) Config {
	return Config{Options: r.Config, Devices: r.Devices, Profiles: r.Profiles}
}
