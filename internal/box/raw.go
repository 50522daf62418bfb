package box

// #include <stdlib.h>
// #include <lxc/lxccontainer.h>
import "C"

import (
	"slices"
	"strings"
	"unsafe"

	"github.com/kiln-containers/kiln"
)

// families begin the keys whose rest names something of the kernel or a network
// interface: liblxc doesn't say which of them it knows.
var families = []string{"lxc.cgroup.", "lxc.cgroup2.", "lxc.net.", "lxc.prlimit.", "lxc.proc.", "lxc.sysctl."}

// CheckConfig says whether text is lines of lxc.container.conf(5) with keys that
// this host's liblxc knows. The error is Invalid and names the line.
func CheckConfig(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		if !ok || strings.ContainsRune(line, 0) {
			return kiln.Errorf(kiln.Invalid, "%q is not a line such as: lxc.key = value", line)
		}
		c := C.CString(key)
		known := bool(C.lxc_config_item_is_supported(c)) ||
			slices.ContainsFunc(families, func(f string) bool { return strings.HasPrefix(key, f) && key != f })
		C.free(unsafe.Pointer(c))
		if !known {
			return kiln.Errorf(kiln.Invalid, "liblxc %s knows no key %q", Version(), key)
		}
	}
	return nil
}
