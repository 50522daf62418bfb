package instance

import (
	"context"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestHoldAllOrder has all of some instances in other hands: whoever locks several waits for the
// same one first, in whatever order they are named, and holds none meanwhile.
func TestHoldAllOrder(t *testing.T) {
	s, _, p := set(t)
	in := project.InDefault(t.Context())
	names := []db.Name{{Project: project.Default, Name: "b"}, {Project: project.Default, Name: "a"}}
	for _, n := range names {
		create(t, s, p, n.Name, Config{})
		unlock, err := s.names.lock(in, key(in, n.Name), "")
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
	}
	gone, cancel := context.WithCancel(in)
	cancel()
	if _, err := s.HoldAll(gone, names, false); err == nil || !strings.Contains(err.Error(), `instance "a"`) {
		t.Errorf("it waits for: %v", err)
	}
	if names[0].Name != "b" {
		t.Error("the caller's list was changed")
	}
}
