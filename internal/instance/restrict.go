package instance

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/project"
)

// Rules are what a project's configuration says that its instances may be, by the keys of
// LXD that begin with "restricted". Without restricted=true they say nothing. They hold for
// everybody; what one of them allows, a restricted client may have as well.
type Rules struct {
	project string
	config  map[string]string
}

const (
	rulesKey   = "restricted"
	privilege  = "restricted.containers.privilege"
	lowLevel   = "restricted.containers.lowlevel"
	intercept  = "restricted.containers.interception"
	nesting    = "restricted.containers.nesting"
	ruledDisk  = "restricted.devices.disk"
	ruledNic   = "restricted.devices.nic"
	ruledNets  = "restricted.networks.access"
	ruledTypes = "restricted.devices." // and a type of devices
	allow      = "allow"
)

// ruleValues are the keys whose value is one of a few, the first being what holds without
// them. Those with one value are of what kiln doesn't have: more can't be allowed.
func ruleValues() map[string][]string {
	keys := map[string][]string{
		privilege: {"unprivileged", "isolated", allow},
		intercept: {"block", allow, "full"},
		ruledDisk: {"managed", "block", allow},
		ruledNic:  {"managed", "block", allow},
	}
	for _, key := range []string{lowLevel, nesting, ruledTypes + "proxy", ruledTypes + "unix-block",
		ruledTypes + "unix-char", ruledTypes + "unix-hotplug", ruledTypes + "gpu", ruledTypes + "usb", Backups.key(),
		Snapshots.key()} {
		keys[key] = []string{"block", allow}
	}
	for _, key := range []string{ruledTypes + "infiniband", ruledTypes + "pci",
		"restricted.virtual-machines.lowlevel"} {
		keys[key] = []string{"block"}
	}
	return keys
}

// RuleKeys are the keys of rules, sorted.
func RuleKeys() []option.Key {
	help := map[string]string{
		rulesKey:  "what its instances and profiles may be is bounded by the keys below",
		privilege: "isolated: instances have ids of the host that no other one has; allow: privileged ones, too",
		lowLevel:  "instances may have raw.lxc and the like",
		intercept: "instances may have system calls done for them, which kiln never does",
		nesting:   "instances may have security.nesting",
		ruledDisk: "managed: storage volumes, but no directories of the host; block: the root disk only",
		ruledNic:  "managed: interfaces on networks, but not on interfaces of the host; block: none",
		ruledNets: "networks that its instances may be on, with commas between; unset: all",

		ruledTypes + "gpu":          "instances may have graphics cards of the host",
		ruledTypes + "proxy":        "instances may have proxy devices",
		ruledTypes + "unix-hotplug": "instances may have device nodes of USB devices",
		ruledTypes + "usb":          "instances may have USB devices of the host",
		ruledTypes + "unix-block":   "instances may have block devices of the host",
		ruledTypes + "unix-char":    "instances may have character devices of the host",
		Backups.key():               "backups of its instances and storage volumes may be made",
		Snapshots.key():             "snapshots of its instances and storage volumes may be made",
	}
	keys := []option.Key{{Name: rulesKey, Type: option.Bool().Or("false"), Help: help[rulesKey]},
		{Name: ruledNets, Type: option.Text("names of networks"), Help: help[ruledNets]}}
	for name, values := range ruleValues() {
		k := option.Key{Name: name, Type: option.OneOf(values...).Or(values[0]), Help: help[name]}
		if len(values) == 1 {
			k.Type.Name, k.Help = values[0], "always "+values[0]+": kiln has nothing of that kind"
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b option.Key) int { return strings.Compare(a.Name, b.Name) })
	return keys
}

// CheckRule says whether a value can be that of one of RuleKeys. Errors: Invalid, Unsupported
// for what kiln can't hold to.
func CheckRule(key, value string) error {
	values, known := ruleValues()[key]
	switch {
	case key == rulesKey:
		if _, err := kiln.ParseBool(value); err != nil {
			return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
		}
		return nil
	case key == ruledNets:
		return nil
	case !known:
		return kiln.Errorf(kiln.Unsupported, "%s isn't supported by this version of kiln, which would not hold to it; "+
			"projects have %s", key, strings.Join(option.Names(RuleKeys()), ", "))
	case slices.Contains(values, value):
		return nil
	case len(values) == 1:
		return kiln.Errorf(kiln.Unsupported, "%s can't be %q: kiln has nothing of that kind; it is always %s", key, value,
			values[0])
	}
	return kiln.Errorf(kiln.Invalid, "%s can't be %q; it is one of %s", key, value, strings.Join(values, ", "))
}

// RulesOf are those of a project with a configuration.
func RulesOf(project string, config map[string]string) Rules { return Rules{project, config} }

func (r Rules) on() bool { return kiln.IsTrue(r.config[rulesKey]) }

// has reports whether a key has one of some values.
func (r Rules) has(key string, values ...string) bool {
	v, known := r.config[key], ruleValues()[key]
	if v == "" && len(known) > 0 {
		v = known[0]
	}
	return slices.Contains(values, v)
}

// allows reports whether a project has been told to let its instances have something.
func (r Rules) allows(a access) bool {
	return r.on() && r.has(a.key, a.values...)
}

// forbids tells what of a whole configuration a project doesn't allow; of a part of one, such
// as a profile, with part. Each line names the key.
func (r Rules) forbids(options map[string]string, devices map[string]map[string]string, part bool) []string {
	if !r.on() {
		return nil
	}
	var list []string
	for _, a := range restrictable(options, devices) {
		if !a.harmless && !r.allows(a) {
			list = append(list, fmt.Sprintf("%s (%s)", a.what, a.key))
		}
	}
	if !part && r.has(privilege, "isolated") && !kiln.IsTrue(options["security.idmap.isolated"]) {
		list = append(list, fmt.Sprintf("no security.idmap.isolated=true (%s)", privilege))
	}
	if options["snapshots.schedule"] != "" && r.has(Snapshots.key(), "block") {
		list = append(list, fmt.Sprintf("snapshots.schedule (%s)", Snapshots.key()))
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		switch {
		case d["type"] == "disk" && !isRoot(d) && r.has(ruledDisk, "block"):
			list = append(list, fmt.Sprintf("device %q of type disk (%s)", name, ruledDisk))
		case d["type"] == "nic" && r.has(ruledNic, "block"):
			list = append(list, fmt.Sprintf("device %q of type nic (%s)", name, ruledNic))
		case d["type"] == "nic":
			on := cmp.Or(d["network"], d["parent"])
			if r.config[ruledNets] != "" && !slices.Contains(splitList(r.config[ruledNets]), on) {
				list = append(list, fmt.Sprintf("device %q on the network %q (%s)", name, on, ruledNets))
			}
		}
	}
	return list
}

func splitList(text string) []string {
	var list []string
	for word := range strings.SplitSeq(text, ",") {
		list = append(list, strings.TrimSpace(word))
	}
	return list
}

// Forbids tells what a project, with a name and a configuration, doesn't allow of an instance
// with all that it has of profiles, or, with part, of a profile. Each line names the key.
func Forbids(project string, config, options map[string]string, devices map[string]map[string]string,
	part bool) []string {
	options, devices = expand(Config{Options: options, Devices: devices}, nil) // without what is empty
	return RulesOf(project, config).forbids(options, devices, part)
}

// A Keeping is a way to keep what an instance or a storage volume is at a moment.
type Keeping string

// The ways of keeping that a project can forbid.
const (
	Backups   Keeping = "backups"
	Snapshots Keeping = "snapshots"
)

func (k Keeping) key() string { return "restricted." + string(k) }

// CheckKeeping refuses to keep anything so in a project that doesn't allow it. The error is
// Denied.
func (r Rules) CheckKeeping(k Keeping) error {
	if !r.on() || r.has(k.key(), allow) {
		return nil
	}
	return kiln.Errorf(kiln.Denied, "project %q allows no %s (%s); ask whoever manages the server, or: kiln project set "+
		"%s %[3]s=allow", r.project, k, k.key(), r.project)
}

// rules are those of the project that ctx is about.
func (s *Set) rules(ctx context.Context) (Rules, error) {
	p, err := project.Of(ctx)
	if err != nil {
		return Rules{}, err
	}
	row, err := s.db.Project(ctx, p.Name)
	return RulesOf(p.Name, row.Config), err
}

// CheckKeeping is that of the rules of the project that ctx is about.
func (s *Set) CheckKeeping(ctx context.Context, k Keeping) error {
	r, err := s.rules(ctx)
	if err != nil {
		return err
	}
	return r.CheckKeeping(k)
}

// CheckArriving is CheckKeeping for the snapshots that something brings which comes into the
// project, if it has any; without is how it comes without them.
func (s *Set) CheckArriving(ctx context.Context, snapshots int, without string) error {
	if snapshots == 0 {
		return nil
	}
	if err := s.CheckKeeping(ctx, Snapshots); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "%d snapshots would come along: leave them out (%s); %w", snapshots, without,
			err)
	}
	return nil
}

// checkRules refuses what the project doesn't allow, unless it has all of it already. The row
// is checked again when it is written; this is before any work is done. The error is Denied.
func (s *Set) checkRules(ctx context.Context, who string, want, has Config) error {
	r, err := s.rules(ctx)
	if err != nil || !r.on() {
		return err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	options, devices := expandNamed(want, profiles)
	list := r.forbids(options, devices, false)
	options, devices = expandNamed(has, profiles)
	if len(list) == 0 || slices.Equal(list, r.forbids(options, devices, false)) {
		return nil
	}
	return kiln.Errorf(kiln.Denied, "project %q doesn't allow what %s would have: %s; leave that out, or ask whoever "+
		"manages the server", r.project, who, strings.Join(list, ", "))
}
