package instance

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// An access is a part of a configuration that lets whoever is root in the instance reach the
// host, with what a project says that allows it.
type access struct {
	what     string   // for people
	key      string   // of the project
	values   []string // of key, that allow it
	harmless bool     // it is only kept from restricted clients
}

// hostKey is a key of instances, or what several begin with, that is of the host whatever its
// value is, with what allows it.
type hostKey struct {
	prefix string
	access
}

// hostKeys are in the order in which they are looked through: the first that fits counts.
func hostKeys() []hostKey {
	list := []hostKey{
		{"security.syscalls.intercept.", access{key: intercept, values: []string{allow, "full"}}},
		// A range of ids for itself makes an instance safer, but there are only so many.
		{"security.idmap.isolated", access{key: privilege, values: []string{"isolated", allow}, harmless: true}},
	}
	for _, prefix := range []string{"raw.", "linux.kernel_modules", "linux.sysctl.", "limits.kernel.", "security.idmap.",
		"security.syscalls."} {
		list = append(list, hostKey{prefix, access{key: lowLevel, values: []string{allow}}})
	}
	return list
}

// HostAccess tells which parts of a configuration let whoever is root in the instance
// reach the host: lines for the runtime, which can run programs there; the host's ids;
// files and devices of the host. Who isn't equivalent to the host's root may not set
// them, unless the project says so, and a server that an instance is copied from isn't asked.
func HostAccess(options map[string]string, devices map[string]map[string]string) []string {
	var list []string
	for _, a := range accesses(options, devices) {
		list = append(list, a.what)
	}
	return list
}

func accesses(options map[string]string, devices map[string]map[string]string) []access {
	var list []access
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value := options[key]
		if value == "" {
			continue
		}
		if key == "security.privileged" && kiln.IsTrue(value) {
			list = append(list, access{what: key + "=" + value, key: privilege, values: []string{allow}})
		}
		of := hostKeys()
		if at := slices.IndexFunc(of, func(k hostKey) bool { return strings.HasPrefix(key, k.prefix) }); at >= 0 {
			a := of[at].access
			a.what = key
			list = append(list, a)
		}
	}
	add := func(d map[string]string, format string, args ...any) {
		list = append(list, access{what: fmt.Sprintf(format, args...), key: ruledTypes + d["type"],
			values: []string{allow}})
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		switch {
		case d["type"] == "none", d["type"] == "disk" && !fromHost(d),
			d["type"] == "nic" && d["network"] != "" && d["parent"] == "" && d["host_name"] == "":
		case d["type"] == "nic" && d["host_name"] != "":
			add(d, "device %q: the name %s on the host", name, d["host_name"]) // which may be another's
		case d["type"] == "nic" && d["parent"] == "":
			add(d, "device %q: an interface of the host", name)
		case d["type"] == "nic":
			add(d, "device %q: the host's interface %s", name, d["parent"])
		case d["type"] == "disk":
			add(d, "device %q: the host's %s", name, d["source"])
		default:
			add(d, "device %q of type %s", name, d["type"])
		}
	}
	return list
}

// restrictable are the accesses, and what widens what of the kernel is in reach.
func restrictable(options map[string]string, devices map[string]map[string]string) []access {
	list := accesses(options, devices)
	if kiln.IsTrue(options["security.nesting"]) {
		list = append(list, access{what: "security.nesting", key: nesting, values: []string{allow}})
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

// maySee reports whether ctx is the work of somebody who may know what is in a project.
func maySee(ctx context.Context, in string) bool {
	projects, restricted := ctx.Value(restrictedKey{}).([]string)
	return !restricted || slices.Contains(projects, in)
}

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
// profiles come to, but for what it has already, which somebody else gave it, what the
// default profile gives to everybody, and what the project allows. The error is Denied.
func (s *Set) checkAccess(ctx context.Context, who string, want, has Config) error {
	if !IsRestricted(ctx) {
		return nil
	}
	if err := cmp.Or(checkOptionBounds(want.Options), checkDeviceBounds(want.Devices)); err != nil {
		return err // before all of it is looked through and named
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	rules, err := s.rules(ctx)
	if err != nil {
		return err
	}
	options, devices := expandNamed(want, profiles)
	for _, given := range []Config{has, {Profiles: []string{"default"}}} {
		o, d := expandNamed(given, profiles)
		maps.DeleteFunc(options, func(k, v string) bool { return o[k] == v })
		maps.DeleteFunc(devices, func(name string, v map[string]string) bool { return maps.Equal(v, d[name]) })
	}
	if err := cmp.Or(checkVolumes(ctx, devices), checkSlowDisks(devices), checkSlowProcessor(options)); err != nil {
		return err
	}
	var list []string
	for _, a := range restrictable(options, devices) {
		if !rules.allows(a) {
			list = append(list, a.what)
		}
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

// expandNamed expands a configuration by the profiles that it names.
func expandNamed(c Config, profiles map[string]Profile) (map[string]string, map[string]map[string]string) {
	var used []Profile
	for _, name := range c.Profiles {
		used = append(used, profiles[name]) // none is as one without anything
	}
	return expand(c, used)
}

// snapshotConfig is the part of a snapshot that a restored instance has.
func snapshotConfig(r db.Snapshot) Config {
	return Config{Options: r.Config, Devices: r.Devices, Profiles: r.Profiles}
}
