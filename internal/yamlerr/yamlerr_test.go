package yamlerr

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// TestPlain says of each kind of mistake where it is and what it is.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"a: x":               "line 1: x is a text, and has to be a whole number",
		"x: 1\nb: 7":         "line 2: 7 is a number, and has to be a map of keys and values",
		"c: q":               "line 1: q is a text, and has to be a list",
		"d: 3":               "line 1: 3 is a number, and has to be true or false",
		"e: x":               "line 1: x is a text, and has to be a map of keys and values",
		"f: x":               "line 1: \"x\" is no date, as 2026-01-31T12:00:00Z is",
		"- x":                "line 1: is a list, and has to be a map of keys and values",
		"a: 1\na: 2":         `line 2: the key "a" is there already, in line 1`,
		"a: b: c":            "line 1: mapping values are not allowed in this context",
		"c: [1, {}, {}, []]": "line 1: is a map",
		"b: {x: [], y: [], z: [], u: [], v: []}": "line 1: is a list, and has to be a text; line 1: is a list, and has to be " +
			"a text; line 1: is a list, and has to be a text; and 2 more",
	} {
		var v struct {
			A int
			B map[string]string
			C []string
			D bool
			E struct{ X int }
			F time.Time
		}
		err := yaml.Unmarshal([]byte(text), &v)
		if err == nil {
			t.Fatalf("%q is read", text)
		}
		if got := Plain(err); !strings.HasPrefix(got, want) || strings.Contains(got, "construct") {
			t.Errorf("%q: %s", text, got)
		}
	}
}
