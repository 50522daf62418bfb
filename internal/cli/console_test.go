package cli

import "testing"

func TestTyped(t *testing.T) {
	for _, c := range []struct {
		chunks []string
		want   string
		over   bool
	}{
		{[]string{"plain"}, "plain", false},
		{[]string{"a\x01q"}, "", true},
		{[]string{"a\x01", "q"}, "a", true},
		{[]string{"\x01\x01q"}, "\x01q", false},
		{[]string{"\x01", "\x01", "\x01", "q"}, "\x01", true},
		{[]string{"\x01ab\x01", "c"}, "\x01ab\x01c", false},
		{[]string{"", "q"}, "q", false},
	} {
		escaped, got, over := false, "", false
		for _, chunk := range c.chunks {
			var text []byte
			text, over = typed([]byte(chunk), &escaped)
			got += string(text)
		}
		if got != c.want || over != c.over {
			t.Errorf("%q: %q, %v", c.chunks, got, over)
		}
	}
}
