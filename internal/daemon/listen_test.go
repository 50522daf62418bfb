package daemon

import (
	"slices"
	"testing"
)

func TestWithoutCovered(t *testing.T) {
	for _, c := range []struct{ have, want []string }{
		{[]string{":1", "127.0.0.1:1"}, []string{":1"}},
		{[]string{"127.0.0.1:1", ":2"}, []string{"127.0.0.1:1", ":2"}},
		{[]string{"[::]:1", ":1", "[::1]:1"}, []string{":1"}},
		{[]string{"0.0.0.0:1", "[::1]:1", "10.0.0.1:1"}, []string{"0.0.0.0:1", "[::1]:1"}},
		{[]string{"[::]:1", "0.0.0.0:1", "localhost:1"}, []string{"[::]:1"}},
		{nil, nil},
	} {
		if got := withoutCovered(c.have); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.have, got, c.want)
		}
	}
}
