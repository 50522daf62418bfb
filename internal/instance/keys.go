package instance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// A Key is a configuration key of instances and profiles, or a family of them.
type Key struct {
	Name string // ends in "." for a family
	Help string // what it does; for one that is refused, why it is
	How  Effect

	check func(value string) error // nil: any value
	part  func(rest string) error  // of a family: what may follow; nil: anything
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
	boolean, number := checkBool, checkNumber
	const machine = "of virtual machines; kiln has containers"
	return []Key{
		{"boot.autorestart", "start again after an end that nobody asked for", Works, boolean, nil},
		{"boot.autostart", "start with the daemon; unset: if it ran when the host went down", Works, boolean, nil},
		{"boot.autostart.delay", "seconds until the next instance starts, at most 3600", Works, number, nil},
		{"boot.autostart.priority", "higher ones start first", Works, number, nil},
		{"boot.debug_edk2", machine, Ignored, nil, nil},
		{"boot.host_shutdown_action", "stop or force-stop, when the host goes down", Works, checkShutdown, nil},
		{"boot.host_shutdown_timeout", "seconds to stop in when the host goes down, at most 3600", Works, number, nil},
		{"boot.mode", machine, Ignored, nil, nil},
		{"boot.stop.priority", "higher ones stop first when the host goes down", Works, number, nil},
		{"cloud-init.ssh-keys.", "kiln adds no keys to cloud-init's data; use cloud-init.user-data", Refused, nil, nil},
		{"cloud-init.", "data for cloud-init, which reads it at boot", Works, nil, nil},
		{"cluster.evacuate", "kiln has no clusters", Ignored, nil, nil},
		{"environment.", "variables of init and of commands", Works, nil, nil},
		{"image.", "what the image is, for templates", Works, nil, nil},
		{"initial.", machine, Ignored, nil, nil},
		{"limits.cpu", "a number of processors, or a list such as 0-3,7", Works, does(parseCPUs), nil},
		{"limits.cpu.allowance", "processor time: 50%, or 25ms/100ms", Works,
			func(v string) error { _, _, err := parseAllowance(v); return err }, nil},
		{"limits.cpu.nodes", "kiln doesn't place instances on NUMA nodes; name processors in limits.cpu", Ignored, nil, nil},
		{"limits.cpu.pin_strategy", machine, Ignored, nil, nil},
		{"limits.cpu.priority", "0 to 10 (default): the share of busy processors", Works, checkPriority, nil},
		{"limits.disk.priority", "kiln doesn't weigh the traffic of disks", Ignored, checkPriority, nil},
		{"limits.hugepages.", "kiln doesn't bound huge pages", Ignored, nil, nil},
		{"limits.kernel.", "of setrlimit(2), such as nofile: N, SOFT:HARD or unlimited", AtStart, checkKernelLimit,
			oneOf("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
				"rtprio", "rttime", "sigpending", "stack")},
		{"limits.memory", "bytes, such as 512MiB, or a percentage of the host's", Works, does(parseMemory), nil},
		{"limits.memory.enforce", "hard (default): never more; soft: more while there is enough", Works,
			oneOf("hard", "soft"), nil},
		{"limits.memory.hotplug", machine, Ignored, nil, nil},
		{"limits.memory.hugepages", machine, Ignored, nil, nil},
		{"limits.memory.oom_priority", "kiln leaves the choice to the kernel", Ignored, nil, nil},
		{"limits.memory.swap", "false: memory of the instance isn't swapped", Works, boolean, nil},
		{"limits.memory.swap.priority", "cgroups have no such thing", Ignored, checkPriority, nil},
		{"limits.network.priority", "kiln doesn't mark packets", Ignored, nil, nil},
		{"limits.processes", "how many there may be", Works, number, nil},
		{"linux.kernel_modules", "kiln loads no modules; the host has to", Ignored, nil, nil},
		{"linux.sysctl.", "a setting of its own namespaces, such as net.ipv4.ip_forward", AtStart,
			checkLine, checkSysctl},
		{"migration.", "kiln doesn't move instances that run", Ignored, nil, nil},
		{"nvidia.", "kiln has no devices of type gpu", Refused, nil, nil},
		{"oci.", "kiln runs systems, not application containers", Refused, nil, nil},
		{"placement.", "kiln has no clusters", Ignored, nil, nil},
		{"raw.apparmor", "use raw.lxc: lxc.apparmor.raw", Refused, nil, nil},
		{"raw.idmap", "kiln maps no ids of the host; use disks with shift=true", Refused, nil, nil},
		{"raw.lxc", "lines of lxc.container.conf(5)", AtStart, box.CheckConfig, nil},
		{"raw.qemu", machine, Refused, nil, nil},
		{"raw.qemu.", machine, Refused, nil, nil},
		{"raw.seccomp", "use security.syscalls.*", Refused, nil, nil},
		{"security.agent.", machine, Ignored, nil, nil},
		{"security.bpffs.", "kiln delegates no BPF", Refused, nil, nil},
		{"security.csm", machine, Ignored, nil, nil},
		{"security.delegate_bpf", "kiln delegates no BPF", Refused, nil, nil},
		{"security.delegate_bpf.", "kiln delegates no BPF", Refused, nil, nil},
		{"security.devlxd", "true (default): the instance may ask about itself at /dev/lxd/sock", Works, boolean, nil},
		{"security.devlxd.images", "the instance may have public and cached images", Works, boolean, nil},
		{"security.devlxd.management.", "instances manage nothing", Refused, nil, nil},
		{"security.guestapi", "Incus's name of security.devlxd", Works, boolean, nil},
		{"security.guestapi.images", "Incus's name of security.devlxd.images", Works, boolean, nil},
		{"security.idmap.base", "of an isolated instance: the first of its ids on the host", AtStart, number, nil},
		{"security.idmap.isolated", "ids of the host that no other instance has", AtStart, boolean, nil},
		{"security.idmap.size", "of an isolated instance: how many ids it has, 65536 by default", AtStart, checkIDs, nil},
		{"security.iommu", machine, Ignored, nil, nil},
		{"security.nesting", "containers within", AtStart, boolean, nil},
		{"security.privileged", "ids are the host's: root in it is root of the host", AtStart, boolean, nil},
		{"security.protection.delete", "it can't be deleted", Works, boolean, nil},
		{"security.protection.shift", "kiln never changes the ids of files", Ignored, boolean, nil},
		{"security.protection.start", "it can't be started", Works, boolean, nil},
		{"security.secureboot", machine, Ignored, nil, nil},
		{"security.sev", machine, Refused, nil, nil},
		{"security.sev.", machine, Refused, nil, nil},
		{"security.syscalls.allow", "system calls, one a line: all others are refused", AtStart, checkSyscalls, nil},
		{"security.syscalls.deny", "system calls to refuse, one a line, as in liblxc's policies", AtStart,
			checkSyscalls, nil},
		{"security.syscalls.deny_compat", "liblxc's policies can't refuse all of an ABI; name its calls in " +
			"security.syscalls.deny", Refused, nil, nil},
		{"security.syscalls.deny_default", "true (default): refuse what has no business in a container", AtStart, boolean,
			nil},
		{"security.syscalls.blacklist", "use security.syscalls.deny", Refused, nil, nil},
		{"security.syscalls.blacklist_compat", "name the calls in security.syscalls.deny", Refused, nil, nil},
		{"security.syscalls.blacklist_default", "use security.syscalls.deny_default", Refused, nil, nil},
		{"security.syscalls.whitelist", "use security.syscalls.allow", Refused, nil, nil},
		{"security.syscalls.intercept.", "kiln does no system calls for instances", Ignored, nil, nil},
		{"smbios11.", machine, Ignored, nil, nil},
		{"snapshots.expiry", "how long snapshots are kept, such as 7d", Works,
			func(v string) error { _, err := kiln.ParseExpiry(v, time.Time{}); return err }, nil},
		{"snapshots.expiry.manual", "say it with: kiln snapshot --expires", Refused, nil, nil},
		{"snapshots.pattern", "names of snapshots, such as snap%d", Works, checkPattern, nil},
		{"snapshots.schedule", "when snapshots are made: five fields of cron, or @daily and the like", Works, checkSchedule,
			nil},
		{"snapshots.schedule.stopped", "also while it is stopped", Works, boolean, nil},
		{"ubuntu_pro.", "kiln gives instances no tokens of Ubuntu Pro", Refused, nil, nil},
		{"user.", "your own", Works, nil, nil},
		{volatilePrefix, "what kiln keeps for itself", Works, nil, nil},
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
		if k.check != nil {
			if err := k.check(value); err != nil {
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

func oneOf(words ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(words, v) {
			return fmt.Errorf("%q is none of %s%s", v, strings.Join(words, ", "), kiln.DidYouMean(v, words))
		}
		return nil
	}
}
