package instance

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
)

// hostKeys begin the keys that are of the host whatever their value is.
func hostKeys() []string {
	return []string{"raw.", "linux.kernel_modules", "limits.kernel.", "security.idmap.", "security.syscalls."}
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
		case d["type"] == "none", d["type"] == "nic", d["type"] == "disk" && d["source"] == "":
		case d["type"] == "disk":
			list = append(list, fmt.Sprintf("device %q: the host's %s", name, d["source"]))
		default:
			list = append(list, fmt.Sprintf("device %q of type %s", name, d["type"]))
		}
	}
	return list
}
