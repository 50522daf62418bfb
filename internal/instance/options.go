package instance

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// checkKey refuses what no key or value can have: what is in a configuration gets into
// files that are read line by line, and into the environment of programs. The error is
// Invalid.
func checkKey(key, value string) error {
	if strings.ContainsFunc(key, unicode.IsControl) {
		return kiln.Errorf(kiln.Invalid, "the configuration key %q has control characters; leave them out", key)
	}
	if strings.ContainsRune(value, 0) {
		return kiln.Errorf(kiln.Invalid, "the value of %q has a NUL character; leave it out", key)
	}
	name, ok := strings.CutPrefix(key, "environment.")
	switch {
	case !ok:
	case strings.ContainsFunc(name, unicode.IsSpace) || strings.Contains(name, "="):
		return kiln.Errorf(kiln.Invalid, "%q can't name an environment variable: it has a space or \"=\"", name)
	case strings.ContainsAny(value, "\r\n"):
		return kiln.Errorf(kiln.Invalid, "the value of %q has a newline, which an environment variable of an instance "+
			"can't have", key)
	}
	return nil
}

func checkBool(v string) error {
	_, err := kiln.ParseBool(v)
	return err
}

func checkNumber(v string) error {
	if _, err := strconv.ParseUint(v, 10, 31); err != nil {
		return fmt.Errorf("%q is not a whole number of at least 0", v)
	}
	return nil
}

// parseMemory reads an amount of memory: "512MiB", "2GB", "50%" of the host's.
// It returns bytes; a negative number is a percentage.
func parseMemory(v string) (int64, error) {
	if p, ok := strings.CutSuffix(v, "%"); ok {
		n, err := strconv.ParseInt(p, 10, 64)
		if err != nil || n < 1 || n > 100 {
			return 0, fmt.Errorf("%q is not a percentage from 1%% to 100%%", v)
		}
		return -n, nil
	}
	n, err := kiln.ParseSize(v)
	if err == nil && n == 0 {
		err = fmt.Errorf("%q is not more than nothing", v)
	}
	return n, err
}

var cpuList = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)

// parseCPUs reads limits.cpu: a number of processors, or a list as of cpuset(7)
// that has a "," or a "-" in it.
func parseCPUs(v string) (box.CPUs, error) {
	if n, err := strconv.ParseUint(v, 10, 16); err == nil {
		if n == 0 {
			return box.CPUs{}, fmt.Errorf("an instance needs at least one processor")
		}
		return box.CPUs{Count: int(n)}, nil
	}
	if !cpuList.MatchString(v) {
		return box.CPUs{}, fmt.Errorf("%q is neither a number nor a list such as 0-3,7", v)
	}
	for part := range strings.SplitSeq(v, ",") {
		first, last, _ := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		to := from
		if err == nil && last != "" {
			to, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || to < from {
			return box.CPUs{}, fmt.Errorf("%q: %s are no processors; give the lower number first", v, part)
		}
	}
	return box.CPUs{Set: v}, nil
}

// What restricted clients may bound the processor time of an instance to, in microseconds. A
// container that has used its quota stands still until the next period, up to Linux 6.17 wherever it
// is: also in the kernel, with a lock of a file system or a change of its journal, for which
// everybody there waits. Who holds these takes a few milliseconds of the processor: so there are as
// many in each period. On several processors the quota can be used at once, whatever it is, so it is
// the period that says how long the rest stands still.
const (
	leastQuota    = 5_000
	longestPeriod = 100_000
)

// checkSlowProcessor refuses an allowance that a restricted client may not set. The error is
// Denied; what isn't valid is refused elsewhere.
func checkSlowProcessor(options map[string]string) error {
	v := options["limits.cpu.allowance"]
	quota, period, err := parseAllowance(v)
	if v == "" || err != nil || quota >= leastQuota && period <= longestPeriod {
		return nil
	}
	return kiln.Errorf(kiln.Denied, "not authorized: limits.cpu.allowance=%s: others wait for what a container holds "+
		"while it stands still; a restricted client gives at least 5%%, or %dms in a period of at most %dms, such as "+
		"25ms/100ms", v, leastQuota/1000, longestPeriod/1000)
}

var allowance = regexp.MustCompile(`^([0-9]+)ms/([0-9]+)ms$`)

// parseAllowance reads limits.cpu.allowance, "25ms/100ms" or "50%" of one
// processor, into microseconds.
func parseAllowance(v string) (quota, period int64, err error) {
	if p, ok := strings.CutSuffix(v, "%"); ok {
		n, err := strconv.ParseInt(p, 10, 32)
		if err != nil || n < 1 {
			return 0, 0, fmt.Errorf("%q is not a percentage of at least 1%%", v)
		}
		return n * 1000, 100_000, nil
	}
	m := allowance.FindStringSubmatch(v)
	if m == nil {
		return 0, 0, fmt.Errorf("%q is neither a percentage nor a share such as 25ms/100ms", v)
	}
	quota, err = strconv.ParseInt(m[1], 10, 32)
	period, perr := strconv.ParseInt(m[2], 10, 32)
	if err != nil || perr != nil || quota < 1 || period < 1 || period > 1000 {
		return 0, 0, fmt.Errorf("%q: the first must be at least 1ms, the second from 1ms to 1000ms", v)
	}
	return quota * 1000, period * 1000, nil
}
