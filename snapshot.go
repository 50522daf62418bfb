package kiln

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// CheckSnapshotName says whether name may name a snapshot: it is part of a URL and
// follows an instance's name and a slash. The error is Invalid.
func CheckSnapshotName(name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "Invalid snapshot name: the name is empty")
	case len(name) > 63:
		return Errorf(Invalid, "Invalid snapshot name %q: longer than 63 bytes", name)
	case name == "." || name == ".." || strings.ContainsAny(name, "/?#%&\\"):
		return Errorf(Invalid, "Invalid snapshot name %q: it is . or .., or has one of the characters / ? # %% & \\", name)
	case strings.HasPrefix(name, "-"):
		return Errorf(Invalid, "Invalid snapshot name %q: it begins with a hyphen, as flags do", name)
	case strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) ||
			r == unicode.ReplacementChar
	}):
		return Errorf(Invalid, "Invalid snapshot name %q: it has white space or control characters", name)
	}
	return nil
}

// CheckVolumeName says whether name may name a storage volume: it is part of a URL and of
// a path. The error is Invalid.
func CheckVolumeName(name string) error {
	if strings.HasPrefix(name, ".") {
		return Errorf(Invalid, "Invalid volume name %q: it begins with a dot", name)
	}
	if err := CheckSnapshotName(name); err != nil {
		return Errorf(Invalid, "%s", strings.Replace(err.Error(), "snapshot", "volume", 1))
	}
	return nil
}

var expiryPart = regexp.MustCompile(`^([0-9]{1,4})([SMHhdwmy])$`)

// ParseExpiry gives the time that is so much after another: "30d", "12h", "1w 3d".
// The letters are those of LXD, S seconds, M minutes, H or h hours, d days, w weeks, m months
// and y years. An empty text gives the zero time: never. The error is Invalid.
func ParseExpiry(after string, from time.Time) (time.Time, error) {
	if strings.TrimSpace(after) == "" {
		return time.Time{}, nil
	}
	at := from
	for part := range strings.FieldsSeq(after) {
		m := expiryPart.FindStringSubmatch(part)
		if m == nil {
			return time.Time{}, Errorf(Invalid, "%q is not a time such as 30d, 12h or \"1w 3d\" (M minutes, H hours, d days, "+
				"w weeks, m months, y years)", after)
		}
		n, _ := strconv.Atoi(m[1]) // four digits at most
		switch m[2] {
		case "S":
			at = at.Add(time.Duration(n) * time.Second)
		case "M":
			at = at.Add(time.Duration(n) * time.Minute)
		case "H", "h":
			at = at.Add(time.Duration(n) * time.Hour)
		case "d":
			at = at.AddDate(0, 0, n)
		case "w":
			at = at.AddDate(0, 0, 7*n)
		case "m":
			at = at.AddDate(0, n, 0)
		case "y":
			at = at.AddDate(n, 0, 0)
		}
	}
	return at, nil
}
