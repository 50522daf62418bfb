package filter

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

func TestMatch(t *testing.T) {
	fields := map[string][]string{
		"architecture": {"x86_64"}, "public": {"true"}, "size": {"1000"}, "properties.os": {"Debian"},
		"properties.release": {"bookworm"}, "aliases.name": {"debian/12", "stable"}, "properties.version": {"12.5"},
	}
	for text, want := range map[string]bool{
		"":                                     true,
		"properties.os eq debian":              true,
		"properties.os eq deb":                 false, // all of it must match
		"properties.os eq ^deb":                true,  // unless it has an anchor
		"properties.os eq deb.*":               true,
		"properties.os ne debian":              false,
		"not properties.os eq ubuntu":          true,
		"architecture eq amd64":                true,
		"architecture eq arm64":                false,
		"public eq true":                       true,
		"public eq false":                      false,
		"size eq 1000":                         true,
		"aliases.name eq stable":               true,
		"aliases.name eq nothing":              false,
		"properties.os eq ubuntu,debian":       true,
		"missing eq x":                         false,
		"missing ne x":                         true,
		"properties.os eq x or public eq true": true,
		// From left to right, without precedence.
		"public eq true or public eq true and size eq 1":               false,
		`properties.os eq "debian" and properties.release eq bookworm`: true,
		"properties.os eq (":         false,
		"properties.version eq 12.5": true,
	} {
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := f.Match(func(field string) []string { return fields[field] }); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, text := range []string{"x", "not", "not x", "x eq", "x lt 5", "x eq y z", "x eq y and", `x eq "y`,
		"x eq y and z"} {
		if _, err := Parse(text); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Parse("name"); err.Error() != "Invalid filter: clause has no operator" {
		t.Error(err)
	}
}

func TestEqualities(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"properties.os eq debian and type eq container": {"os": "debian"},
		"properties.os eq debian or public eq true":     nil,
		"properties.os eq deb.*":                        {},
		"not properties.os eq debian":                   {},
		"properties.architecture eq amd64":              {},
	} {
		f, err := Parse(text)
		if err != nil || !maps.Equal(f.Equalities("properties."), want) {
			t.Errorf("%q: %v, %v", text, f.Equalities("properties."), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`not properties.os eq "a b" and x ne y or z eq (`)
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := Parse(s); err == nil {
			p.Match(func(string) []string { return []string{"a", s} })
			p.Equalities("properties.")
		}
	})
}

// TestBounds refuses what would take much memory or time to compile or to match, at
// once.
func TestBounds(t *testing.T) {
	many := func(s, sep string, n int) string { return strings.TrimSuffix(strings.Repeat(s+sep, n), sep) }
	for name, text := range map[string]string{
		"long":             "name eq " + strings.Repeat("x", 5000),
		"clauses":          many("a eq b", " and ", 33),
		"alternatives":     "fingerprint eq " + many("a", ",", 129),
		"repeats":          "fingerprint eq " + many("a{1000}", ",", 100),
		"repeats in one":   "fingerprint eq " + many("a{1000}", "", 100),
		"repeats in turn":  "fingerprint eq ((a{10}b{10}){10}c{10}){10}" + strings.Repeat("(x{999})", 20),
		"classes":          "fingerprint eq " + many(`\pL{100}`, "", 100),
		"dots":             strings.Repeat(".", 300) + " eq x",
		"dots and clauses": many(strings.Repeat("a.", 200)+" eq x", " or ", 10),
	} {
		if _, err := Parse(text); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{
		"fingerprint eq " + many("0123456789ab", ",", 100), "properties.os eq debian and " + many("a eq b{3}", " or ", 20),
	} {
		if _, err := Parse(text); err != nil {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}
