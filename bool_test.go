package kiln

import (
	"errors"
	"testing"
)

func TestParseBool(t *testing.T) {
	for s, want := range map[string]bool{"true": true, "TRUE": true, "1": true, "yes": true, "On": true, "false": false,
		"0": false, "no": false, "off": false, "": false} {
		if got, err := ParseBool(s); got != want || err != nil || IsTrue(s) != want {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	for _, s := range []string{"t", "2", "maybe", " true"} {
		if _, err := ParseBool(s); !errors.Is(err, Invalid) || IsTrue(s) {
			t.Errorf("%q: %v", s, err)
		}
	}
}
