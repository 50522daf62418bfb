package instance

import (
	"slices"
	"testing"
)

// TestStartOrder mounts a disk after the one that its path is on, whatever they are called.
func TestStartOrder(t *testing.T) {
	got := inStartOrder(map[string]map[string]string{
		"a": {"type": "disk", "path": "srv/x/inner"}, "b": {"type": "disk", "path": "/srv/x/"},
		"c": {"type": "disk", "path": "/srv"}, "d": {"type": "unix-char", "path": "/srv/x/node"},
		"eth0": {"type": "nic"}, "z": {"type": "disk", "path": "/srv"},
	})
	if want := []string{"c", "z", "b", "a", "d", "eth0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
