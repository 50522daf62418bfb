package instance

import (
	"fmt"
	"math"
	"regexp"
	"strconv"

	"github.com/kiln-containers/kiln"
)

const decimal = `([0-9]{1,5}(?:\.[0-9]{1,3})?)`

var sizeName = regexp.MustCompile(`^(?:c` + decimal + `(?:-m` + decimal + `)?|m` + decimal + `)$`)

// SizeOptions gives the options that an instance type stands for: "c2-m4" is two
// processors and 4 GiB of memory, "c0.5" half of one, "m1" only 1 GiB. Errors:
// Unsupported for the names of clouds, whose list isn't kept here.
func SizeOptions(size string) (map[string]string, error) {
	if size == "" {
		return nil, nil
	}
	m := sizeName.FindStringSubmatch(size)
	if m == nil {
		return nil, kiln.Errorf(kiln.Unsupported, "instance type %q is not known; say it as processors and GiB of memory, "+
			"c2-m4, or by itself: -c limits.cpu=2 -c limits.memory=4GiB", size)
	}
	options := map[string]string{}
	if m[1] != "" {
		cpus, _ := strconv.ParseFloat(m[1], 64) // digits, as matched
		if cpus < 0.01 {
			return nil, kiln.Errorf(kiln.Invalid, "instance type %q: it needs at least a hundredth of a processor", size)
		}
		options["limits.cpu"] = fmt.Sprint(int(math.Ceil(cpus)))
		if cpus != math.Trunc(cpus) {
			options["limits.cpu.allowance"] = fmt.Sprintf("%.0f%%", cpus*100)
		}
	}
	if memory := m[2] + m[3]; memory != "" {
		gib, _ := strconv.ParseFloat(memory, 64)
		if gib*1024 < 1 {
			return nil, kiln.Errorf(kiln.Invalid, "instance type %q: it needs at least a MiB of memory", size)
		}
		options["limits.memory"] = fmt.Sprintf("%.0fMiB", gib*1024)
	}
	return options, nil
}
