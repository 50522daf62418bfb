package kiln

import "strings"

// ParseBool reads a switch of a configuration as LXD does: true, 1, yes and on, or
// false, 0, no, off and nothing, in any case. The error is Invalid.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off", "":
		return false, nil
	}
	return false, Errorf(Invalid, "%q is neither true nor false", s)
}

// IsTrue reports whether a switch is on; a value that is none is not.
func IsTrue(s string) bool {
	on, err := ParseBool(s)
	return err == nil && on
}
