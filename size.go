package kiln

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
)

var size = regexp.MustCompile(`^([0-9]+) ?(?:([kKMGTPE])(i?)B|B|)$`)

// ParseSize reads an amount of bytes with a decimal (kB, MB …) or binary (KiB,
// MiB …) unit, or none. The error is Invalid.
func ParseSize(s string) (int64, error) {
	m := size.FindStringSubmatch(s)
	if m == nil {
		return 0, Errorf(Invalid, "%q is not a size such as 512MiB or 2GB", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, Errorf(Invalid, "%q is too large", s)
	}
	unit := int64(1000)
	if m[3] == "i" {
		unit = 1024
	}
	powers := map[string]int{"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
	for range powers[m[2]] {
		if n > math.MaxInt64/unit {
			return 0, Errorf(Invalid, "%q is too large", s)
		}
		n *= unit
	}
	return n, nil
}

// FormatSize writes an amount of bytes for people: "258 MB".
func FormatSize(n int64) string {
	f, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	k := 0
	for f >= 1000 && k < len(units)-1 {
		f /= 1000
		k++
	}
	if k == 0 || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, units[k])
	}
	return fmt.Sprintf("%.1f %s", f, units[k])
}
