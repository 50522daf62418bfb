package instance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/option"
)

// A Key is a configuration key of instances and profiles, or a family of them.
type Key struct {
	Name string // ends in "." for a family
	Help string // what it does; for one that is refused, why it is
	How  Effect

	Type option.Type
	part func(rest string) error // of a family: what may follow; nil: anything
}

// An Effect is what comes of a key.
type Effect int

// The effects that keys have.
const (
	Works   Effect = iota
	AtStart        // it works from the next start of the instance on
	Ignored        // it is taken, as published profiles have it, and changes nothing here
	Refused        // who sets it relies on what it does: taking it would be worse than an error
)

// Keys are all that LXD's and Incus's manuals know, and kiln's own.
func Keys() []Key {
	boolean, number, no := option.Bool(), option.Number("number"), option.Type{}
	checked := func(name string, check func(string) error) option.Type { return option.Type{Name: name, Check: check} }
	seconds, text, yes := option.Number("seconds"), option.Text("text"), boolean.Or("true")
	off, calls := boolean.Or("false"), checked("names of system calls", checkSyscalls)
	const machine = "of virtual machines; kiln has containers"
	return []Key{
		{"boot.autorestart", "start again after an end that nobody asked for", Works, off, nil},
		{"boot.autostart", "start with the daemon; unset: if it ran when the host went down", Works, boolean, nil},
		{"boot.autostart.delay", "seconds until the next instance starts, at most 3600", Works, seconds.Or("0"), nil},
		{"boot.autostart.priority", "higher ones start first", Works, number.Or("0"), nil},
		{"boot.debug_edk2", machine, Ignored, no, nil},
		{"boot.host_shutdown_action", "stop or force-stop, when the host goes down", Works,
			checked("one of stop, force-stop", checkShutdown).Or("stop"), nil},
		{"boot.host_shutdown_timeout", "seconds to stop in when the host goes down, at most 3600", Works,
			seconds.Or("30"), nil},
		{"boot.mode", machine, Ignored, no, nil},
		{"boot.stop.priority", "higher ones stop first when the host goes down", Works, number.Or("0"), nil},
		{"cloud-init.ssh-keys.", "kiln adds no keys to cloud-init's data; use cloud-init.user-data", Refused, no, nil},
		{"cloud-init.", "data for cloud-init, which reads it at boot", Works, text, nil},
		{"cluster.evacuate", "kiln has no clusters", Ignored, no, nil},
		{"environment.", "variables of init and of commands", Works, text, nil},
		{"image.", "what the image is, for templates", Works, text, nil},
		{"initial.", machine, Ignored, no, nil},
		{"limits.cpu", "a number of processors, or a list such as 0-3,7", Works,
			checked("number or list", does(parseCPUs)), nil},
		{"limits.cpu.allowance", "processor time: 50%, or 25ms/100ms", Works,
			checked("percentage or share", func(v string) error { _, _, err := parseAllowance(v); return err }), nil},
		{"limits.cpu.nodes", "kiln doesn't place instances on NUMA nodes; name processors in limits.cpu", Ignored, no, nil},
		{"limits.cpu.pin_strategy", machine, Ignored, no, nil},
		{"limits.cpu.priority", "the share of busy processors: 0 to 10", Works,
			checked("number", checkPriority).Or("10"), nil},
		{"limits.disk.priority", "kiln doesn't weigh the traffic of disks", Ignored, no, nil},
		{"limits.hugepages.", "kiln doesn't bound huge pages", Ignored, no, nil},
		{"limits.kernel.", "of setrlimit(2), such as nofile: N, SOFT:HARD or unlimited", AtStart,
			checked("limit", checkKernelLimit), oneOf("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue",
				"nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack")},
		{"limits.memory", "bytes, such as 512MiB, or a percentage of the host's", Works,
			checked("size or percentage", does(parseMemory)), nil},
		{"limits.memory.enforce", "hard: never more; soft: more while there is enough", Works,
			option.OneOf("hard", "soft").Or("hard"), nil},
		{"limits.memory.hotplug", machine, Ignored, no, nil},
		{"limits.memory.hugepages", machine, Ignored, no, nil},
		{"limits.memory.oom_priority", "kiln leaves the choice to the kernel", Ignored, no, nil},
		{"limits.memory.swap", "false: memory of the instance isn't swapped", Works, yes, nil},
		{"limits.memory.swap.priority", "cgroups have no such thing", Ignored, no, nil},
		{"limits.network.priority", "kiln doesn't mark packets", Ignored, no, nil},
		{"limits.processes", "how many there may be", Works, number, nil},
		{"linux.kernel_modules", "kiln loads no modules; the host has to", Ignored, no, nil},
		{"linux.sysctl.", "a setting of its own namespaces, such as net.ipv4.ip_forward", AtStart,
			checked("line", checkLine), checkSysctl},
		{"migration.", "kiln doesn't move instances that run", Ignored, no, nil},
		{"nvidia.", "kiln has no devices of type gpu", Refused, no, nil},
		{"oci.", "kiln runs systems, not application containers", Refused, no, nil},
		{"placement.", "kiln has no clusters", Ignored, no, nil},
		{"raw.apparmor", "use raw.lxc: lxc.apparmor.raw", Refused, no, nil},
		{"raw.idmap", "kiln maps no ids of the host; use disks with shift=true", Refused, no, nil},
		{"raw.lxc", "lines of lxc.container.conf(5)", AtStart, checked("lines", box.CheckConfig), nil},
		{"raw.qemu", machine, Refused, no, nil},
		{"raw.qemu.", machine, Refused, no, nil},
		{"raw.seccomp", "use security.syscalls.*", Refused, no, nil},
		{"security.agent.", machine, Ignored, no, nil},
		{"security.bpffs.", "kiln delegates no BPF", Refused, no, nil},
		{"security.csm", machine, Ignored, no, nil},
		{"security.delegate_bpf", "kiln delegates no BPF", Refused, no, nil},
		{"security.delegate_bpf.", "kiln delegates no BPF", Refused, no, nil},
		{"security.devlxd", "the instance may ask about itself at /dev/lxd/sock", Works, yes, nil},
		{"security.devlxd.images", "the instance may have public and cached images", Works, off, nil},
		{"security.devlxd.management.", "instances manage nothing", Refused, no, nil},
		{"security.guestapi", "Incus's name of security.devlxd", Works, yes, nil},
		{"security.guestapi.images", "Incus's name of security.devlxd.images", Works, off, nil},
		{"security.idmap.base", "of an isolated instance: the first of its ids on the host", AtStart, number, nil},
		{"security.idmap.isolated", "ids of the host that no other instance has", AtStart, off, nil},
		{"security.idmap.size", "of an isolated instance: how many ids it has", AtStart,
			checked("number", checkIDs).Or("65536"), nil},
		{"security.iommu", machine, Ignored, no, nil},
		{"security.nesting", "containers within", AtStart, off, nil},
		{"security.privileged", "ids are the host's: root in it is root of the host", AtStart, off, nil},
		{"security.protection.delete", "it can't be deleted", Works, off, nil},
		{"security.protection.shift", "kiln never changes the ids of files", Ignored, no, nil},
		{"security.protection.start", "it can't be started", Works, off, nil},
		{"security.secureboot", machine, Ignored, no, nil},
		{"security.sev", machine, Refused, no, nil},
		{"security.sev.", machine, Refused, no, nil},
		{"security.syscalls.allow", "system calls, one a line: all others are refused", AtStart, calls, nil},
		{"security.syscalls.deny", "system calls to refuse, one a line, as in liblxc's policies", AtStart,
			calls, nil},
		{"security.syscalls.deny_compat", "liblxc's policies can't refuse all of an ABI; name its calls in " +
			"security.syscalls.deny", Refused, no, nil},
		{"security.syscalls.deny_default", "refuse what has no business in a container", AtStart, yes, nil},
		{"security.syscalls.blacklist", "use security.syscalls.deny", Refused, no, nil},
		{"security.syscalls.blacklist_compat", "name the calls in security.syscalls.deny", Refused, no, nil},
		{"security.syscalls.blacklist_default", "use security.syscalls.deny_default", Refused, no, nil},
		{"security.syscalls.whitelist", "use security.syscalls.allow", Refused, no, nil},
		{"security.syscalls.intercept.", "kiln does no system calls for instances", Ignored, no, nil},
		{"smbios11.", machine, Ignored, no, nil},
		{"snapshots.expiry", "how long snapshots are kept, such as 7d", Works,
			checked("time", func(v string) error { _, err := kiln.ParseExpiry(v, time.Time{}); return err }), nil},
		{"snapshots.expiry.manual", "say it with: kiln snapshot --expires", Refused, no, nil},
		{"snapshots.pattern", "names of snapshots, such as snap%d", Works,
			checked("pattern", checkPattern).Or("snap%d"), nil},
		{"snapshots.schedule", "when snapshots are made: five fields of cron, or @daily and the like", Works,
			checked("schedule", checkSchedule), nil},
		{"snapshots.schedule.stopped", "also while it is stopped", Works, off, nil},
		{"ubuntu_pro.", "kiln gives instances no tokens of Ubuntu Pro", Refused, no, nil},
		{"user.", "your own", Works, text, nil},
		{volatilePrefix, "what kiln keeps for itself", Works, text, nil},
	}
}

// find gives the key that a word is, the family with the longest name among them.
func find(keys []Key, word string) (Key, bool) {
	var found Key
	for _, k := range keys {
		is := k.Name == word
		if strings.HasSuffix(k.Name, ".") {
			is = strings.HasPrefix(word, k.Name) && !is
		}
		if is && len(k.Name) > len(found.Name) {
			found = k
		}
	}
	return found, found.Name != ""
}

// CheckOptions says whether a configuration can be an instance's or a
// profile's. Errors: TooLarge, Invalid and, for what is refused, Unsupported; the last two
// name the key.
func CheckOptions(config map[string]string) error {
	if err := checkOptionBounds(config); err != nil {
		return err
	}
	keys := Keys()
	for _, word := range slices.Sorted(maps.Keys(config)) {
		value := config[word]
		if err := checkKey(word, value); err != nil {
			return err
		}
		k, ok := find(keys, word)
		if !ok {
			return kiln.Errorf(kiln.Invalid, "Unknown configuration key: %q%s", word, kiln.DidYouMean(word, names(keys)))
		}
		if value == "" {
			continue // unset
		}
		if k.How == Refused {
			return kiln.Errorf(kiln.Unsupported, "%q is not supported: %s", word, k.Help)
		}
		if k.part != nil {
			if err := k.part(strings.TrimPrefix(word, k.Name)); err != nil {
				return kiln.Errorf(kiln.Invalid, "Unknown configuration key: %q: %w", word, err)
			}
		}
		if k.Type.Check != nil {
			if err := k.Type.Check(value); err != nil {
				return kiln.Errorf(kiln.Invalid, "Invalid value for %q: %w", word, err)
			}
		}
	}
	return nil
}

// names are those of the keys that aren't refused.
func names(keys []Key) []string {
	var list []string
	for _, k := range keys {
		if k.How != Refused {
			list = append(list, k.Name)
		}
	}
	return list
}

// NoEffect says which keys of a configuration are taken and change nothing here.
func NoEffect(config map[string]string) []string {
	var warnings []string
	keys := Keys()
	for _, word := range slices.Sorted(maps.Keys(config)) {
		if k, ok := find(keys, word); ok && k.How == Ignored && config[word] != "" {
			warnings = append(warnings, fmt.Sprintf("%s has no effect in this version of kiln: %s", word, k.Help))
		}
	}
	return warnings
}

// atNextStart says which changes of a configuration a running instance doesn't see.
func atNextStart(now, next map[string]string) []string {
	var warnings []string
	keys := Keys()
	both := maps.Clone(now)
	if both == nil {
		both = map[string]string{}
	}
	maps.Copy(both, next)
	for _, word := range slices.Sorted(maps.Keys(both)) {
		if k, ok := find(keys, word); ok && k.How == AtStart && now[word] != next[word] {
			warnings = append(warnings, fmt.Sprintf("%s takes effect at the next start of the instance", word))
		}
	}
	return warnings
}

// added gives the entries of next that now doesn't have like that.
func added(now, next map[string]string) map[string]string {
	out := maps.Clone(next)
	maps.DeleteFunc(out, func(k, v string) bool { return now[k] == v })
	return out
}

// does makes a check of a parser.
func does[T any](parse func(string) (T, error)) func(string) error {
	return func(v string) error { _, err := parse(v); return err }
}

func oneOf(words ...string) func(string) error { return option.OneOf(words...).Check }
