package instance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// noEffect are keys of LXD's and Incus's manuals that published profiles have and that
// change nothing here, so that the profiles can be used as they are. A name that ends
// in "." is a family of keys.
var noEffect = []string{
	"cluster.evacuate", "limits.cpu.nodes", "limits.cpu.priority",
	"limits.disk.priority", "limits.hugepages.", "limits.kernel.", "limits.memory.enforce", "limits.memory.hugepages",
	"limits.memory.swap", "limits.memory.swap.priority", "limits.network.priority", "linux.kernel_modules",
	"linux.kernel_modules.load", "migration.", "security.syscalls.intercept.",
}

// refused are keys of those manuals whose users rely on what they do: taking them
// without doing it would be worse than an error.
var refused = []string{
	"agent.", "linux.sysctl.", "nvidia.", "oci.", "raw.", "security.agent.", "security.bpffs.", "security.csm",
	"security.idmap.", "security.iommu", "security.protection.", "security.secureboot", "security.sev",
	"security.syscalls.", "ubuntu_pro.",
}

// foreign reports whether a key is one of a list of names and families.
func foreign(key string, list []string) bool {
	return slices.ContainsFunc(list, func(name string) bool {
		return key == name || strings.HasSuffix(name, ".") && strings.HasPrefix(key, name)
	})
}

// NoEffect says which keys of a configuration are taken and change nothing here.
func NoEffect(config map[string]string) []string {
	var warnings []string
	for _, key := range slices.Sorted(maps.Keys(config)) {
		if config[key] != "" && foreign(key, noEffect) {
			warnings = append(warnings, fmt.Sprintf("%s has no effect in this version of kiln", key))
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
