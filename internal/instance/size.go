package instance

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

const decimal = `([0-9]{1,5}(?:\.[0-9]{1,3})?)`

var sizeName = regexp.MustCompile(`^(?:c` + decimal + `(?:-m` + decimal + `)?|m` + decimal + `)$`)

// cloudTypes are Amazon's names that are used most, with what they stand for.
func cloudTypes() map[string]string {
	types := map[string]string{
		"t2.nano": "c1-m0.5", "t2.micro": "c1-m1", "t2.small": "c1-m2",
		"t3.nano": "c2-m0.5", "t3.micro": "c2-m1", "t3.small": "c2-m2",
	}
	for _, t := range []string{"t2", "t3"} {
		types[t+".medium"], types[t+".large"], types[t+".xlarge"], types[t+".2xlarge"] = "c2-m4", "c2-m8", "c4-m16", "c8-m32"
	}
	for family, gib := range map[string]int{"m5": 4, "c5": 2, "r5": 8} { // for each processor
		for size, cpus := range map[string]int{"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16} {
			types[family+"."+size] = fmt.Sprintf("c%d-m%d", cpus, cpus*gib)
		}
	}
	return types
}

// SizeOptions gives the options that an instance type stands for: "c2-m4" is two
// processors and 4 GiB of memory, "c0.5" half of one, "m1" only 1 GiB; "t2.micro", also
// "aws:t2.micro", is as at Amazon. Errors: Unsupported for other names.
func SizeOptions(size string) (map[string]string, error) {
	if size == "" {
		return nil, nil
	}
	types := cloudTypes()
	m := sizeName.FindStringSubmatch(cmp.Or(types[strings.TrimPrefix(size, "aws:")], size))
	if m == nil {
		return nil, kiln.Errorf(kiln.Unsupported, "instance type %q is not known; say it as processors and GiB of memory, "+
			"c2-m4, or by itself: -c limits.cpu=2 -c limits.memory=4GiB%s", size,
			kiln.DidYouMean(size, slices.Collect(maps.Keys(types))))
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
