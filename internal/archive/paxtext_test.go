package archive

import (
	"strconv"
	"strings"
	"testing"
)

// TestPaxText: the length of a record counts itself, also where it grows by a digit for
// that.
func TestPaxText(t *testing.T) {
	for n := range 1100 {
		text := paxText(map[string]string{"k": strings.Repeat("v", n)})
		length, _, _ := strings.Cut(text, " ")
		if length != strconv.Itoa(len(text)) {
			t.Errorf("a record of %d bytes says that it has %s", len(text), length)
		}
	}
}
