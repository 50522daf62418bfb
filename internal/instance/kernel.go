package instance

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// checkPriority accepts 0 to 10.
func checkPriority(v string) error {
	if n, err := strconv.ParseUint(v, 10, 8); err != nil || n > 10 {
		return fmt.Errorf("%q is not a whole number from 0 to 10", v)
	}
	return nil
}

func checkShutdown(v string) error {
	if v == "stateful-stop" {
		return fmt.Errorf("kiln keeps no memory of instances; take stop or force-stop")
	}
	return oneOf("stop", "force-stop")(v)
}

// checkKernelLimit accepts what lxc.prlimit does: a number or "unlimited", or a soft and a
// hard one.
func checkKernelLimit(v string) error {
	soft, hard, two := strings.Cut(v, ":")
	if !two {
		hard = soft
	}
	number := func(v string) (uint64, bool) {
		if v == "unlimited" {
			return 1<<64 - 1, true
		}
		n, err := strconv.ParseUint(v, 10, 63)
		return n, err == nil
	}
	s, ok1 := number(soft)
	h, ok2 := number(hard)
	if !ok1 || !ok2 {
		return fmt.Errorf("%q is neither a number, unlimited nor two of these as in 1024:4096", v)
	}
	if s > h {
		return fmt.Errorf("%q: the soft limit is higher than the hard one, which comes second", v)
	}
	return nil
}

// checkLine refuses what could go on as a line of its own in liblxc's configuration.
func checkLine(v string) error {
	if strings.ContainsAny(v, "\r\n") {
		return fmt.Errorf("%q has more than one line", v)
	}
	return nil
}

// sysctlName is as sysctl(8) writes it, with dots or slashes.
var sysctlName = regexp.MustCompile(`^[a-zA-Z0-9_-]+([./][a-zA-Z0-9_*@-]+)+$`)

func checkSysctl(name string) error {
	if !sysctlName.MatchString(name) {
		return fmt.Errorf("%q is not the name of a setting such as net.ipv4.ip_forward", name)
	}
	return nil
}

// kernelConfig are lines for liblxc, of limits.kernel.* and linux.sysctl.*.
func kernelConfig(config map[string]string) []string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(config)) {
		if config[key] == "" {
			continue
		}
		for prefix, line := range map[string]string{"limits.kernel.": "lxc.prlimit.", "linux.sysctl.": "lxc.sysctl."} {
			if name, ok := strings.CutPrefix(key, prefix); ok {
				lines = append(lines, fmt.Sprintf("%s%s = %s", line, name, config[key]))
			}
		}
	}
	return lines
}

// callLine is a line of a policy: a system call, and perhaps what comes of it.
var callLine = regexp.MustCompile(`^([a-z0-9_]+|\[[a-z0-9_]+\])( +(errno +[0-9]+|kill|allow|trap|log))?$`)

// checkSyscalls says whether lines can be of a policy.
func checkSyscalls(v string) error {
	n := 0
	for line := range strings.Lines(v) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !callLine.MatchString(line) {
			return fmt.Errorf("%q is not a system call such as \"mount\", \"mount errno 1\" or \"[x86_64]\"; one a line", line)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("%q names no system call", v)
	}
	return nil
}

// checkPolicy says whether options about system calls go together. The error is Invalid.
func checkPolicy(c map[string]string) error {
	if c["security.syscalls.allow"] == "" {
		return nil
	}
	if c["security.syscalls.deny"] != "" {
		return kiln.Errorf(kiln.Invalid, "security.syscalls.allow refuses all else: leave out security.syscalls.deny")
	}
	return nil
}

// policy is the one of an instance, in the format of liblxc; "": that of kiln.
func policy(c map[string]string) string {
	if list := c["security.syscalls.allow"]; list != "" {
		return "2\nallowlist errno 1\n[all]\n" + strings.TrimSpace(list) + "\n"
	}
	basic, denied := isTrueOr(c["security.syscalls.deny_default"], true), strings.TrimSpace(c["security.syscalls.deny"])
	if basic && denied == "" {
		return ""
	}
	text := box.NoPolicy
	if basic {
		text = box.DefaultPolicy()
	}
	text += "[all]\n"
	for line := range strings.Lines(denied) {
		line = strings.TrimSpace(line)
		if plain := !strings.ContainsAny(line, " [#"); plain && line != "" {
			line += " errno 1" // and isn't killed
		}
		text += line + "\n"
	}
	return text
}
