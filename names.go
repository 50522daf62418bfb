package kiln

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AmbiguousPrefix is the error for a prefix that several images share. At most
// eight candidates are listed.
func AmbiguousPrefix(typed string, found []Fingerprint) error {
	const most = 8
	var list []string
	for i, fp := range found {
		if i == most {
			list = append(list, "…")
			break
		}
		list = append(list, fp.Short())
	}
	return Errorf(Ambiguous, "more than one image matches %q: %s; type more digits", typed, strings.Join(list, ", "))
}

// NoImage is the error about an image that isn't there, with the alias that was probably
// meant, or where the versions of the one that was named are listed.
func NoImage(name string, aliases []string) error {
	hint := DidYouMean(name, aliases)
	if hint == "" {
		hint = "; see: kiln image list"
	}
	if alias, _, ok := strings.Cut(name, "@"); ok && slices.Contains(aliases, alias) {
		hint = "; the versions that there are: kiln image history " + alias
	}
	return Errorf(NotFound, "no image %q%s", name, hint)
}

// CheckProjectName says whether name may be a project's: letters, digits, hyphens and dots
// within, at most 63, so that it can be a part of a host's name and of a path. The error is
// Invalid.
func CheckProjectName(name string) error {
	if !projectName.MatchString(name) || strings.Contains(name, "..") {
		return Errorf(Invalid, "%q can't be a project's name; it has up to 63 of a-z A-Z 0-9 - and ., and begins and ends "+
			"with a letter or a digit", name)
	}
	return nil
}

var projectName = regexp.MustCompile(`^[a-zA-Z0-9]([-.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)

// MaxAliasLen is the longest alias accepted, in bytes (the limit of Incus).
const MaxAliasLen = 64

// CheckAlias says whether name may be the alias of an image. The rules are the
// ones of Incus (no white space, none of $ ? & + " ' ` *), and an alias must be such
// that every place can say it: it doesn't read as a full fingerprint, which it would
// hide, nor as a flag; and as a part of a URL it is no path that is cleaned there. The
// error is Invalid.
func CheckAlias(name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "an alias can't be empty")
	case len(name) > MaxAliasLen:
		return Errorf(Invalid, "alias %q is longer than %d bytes", name, MaxAliasLen)
	case strings.ContainsAny(name, "$?&+\"'`*"):
		return Errorf(Invalid, "alias %q has one of the characters $ ? & + \" ' ` *", name)
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return Errorf(Invalid, "alias %q has white space or control characters", name)
	case !utf8.ValidString(name):
		return Errorf(Invalid, "alias %q is not UTF-8", name)
	case strings.HasPrefix(name, ":"):
		return Errorf(Invalid, "alias %q begins with a colon, which ends the name of a remote where an image is named", name)
	case strings.HasPrefix(name, "-"):
		return Errorf(Invalid, "alias %q begins with a hyphen, as flags do", name)
	case path.Clean("/"+name) != "/"+name:
		return Errorf(Invalid, "alias %q has an empty part, or one that is . or .., between its slashes", name)
	case len(name) == 64 && IsPrefix(strings.ToLower(name)):
		return Errorf(Invalid, "alias %q reads as a fingerprint; choose a name that is not 64 hexadecimal digits", name)
	}
	return nil
}

var instanceName = regexp.MustCompile(`^[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// CheckInstanceName says whether name may name an instance: a host name of RFC
// 1123 (1 to 63 letters, digits and hyphens) that starts with a letter and does
// not end in a hyphen. The error is Invalid.
func CheckInstanceName(name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "Invalid instance name: the name is empty")
	case instanceName.MatchString(name):
		return nil
	case len(name) > 63:
		return Errorf(Invalid, "Invalid instance name %q: longer than 63 characters", name)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "":
		return Errorf(Invalid, "Invalid instance name %q: Name can only contain alphanumeric and hyphen characters", name)
	}
	return Errorf(Invalid, "Invalid instance name %q: a name starts with a letter and does not end with a hyphen", name)
}

// CheckDescription says whether a text can describe something: it has lines, but no other
// control characters, which would reach the terminals of whoever reads it. The error is
// Invalid.
func CheckDescription(text string) error {
	for _, r := range text {
		if unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) {
			return Errorf(Invalid, "the description has the control character %q; leave it out", r)
		}
	}
	return nil
}
