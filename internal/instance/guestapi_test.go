package instance

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/kiln-containers/kiln"
)

func TestHasGuest(t *testing.T) {
	for _, c := range []struct {
		config map[string]string
		has    bool
	}{
		{nil, true},
		{map[string]string{"security.devlxd": "true"}, true},
		{map[string]string{"security.devlxd": "false"}, false},
		{map[string]string{"security.guestapi": "0"}, false},
		{map[string]string{"security.guestapi": "true", "security.devlxd": "no"}, false},
	} {
		if got := hasGuest(c.config); got != c.has {
			t.Errorf("%v: %v", c.config, got)
		}
	}
}

// TestCloudID is the same for as long as cloud-init has nothing new to do.
func TestCloudID(t *testing.T) {
	i := Instance{Name: "c1", ExpandedConfig: map[string]string{"user.user-data": "a", "limits.cpu": "1"}}
	i.Options = map[string]string{UUIDKey: "6266645e-6286-4404-b31e-5812763fd026"}
	seen := map[string]string{cloudID(i): "as it was"}
	same := i
	same.ExpandedConfig = map[string]string{"user.user-data": "a", "limits.cpu": "2", "user.x": "y"}
	if cloudID(same) != cloudID(i) {
		t.Error("another id without a reason")
	}
	for name, change := range map[string]func(*Instance){
		"renamed":       func(i *Instance) { i.Name = "c2" },
		"a copy":        func(i *Instance) { i.Options = map[string]string{UUIDKey: "6266645e-6286-4404-b31e-5812763fd027"} },
		"other data":    func(i *Instance) { i.ExpandedConfig["user.user-data"] = "b" },
		"vendor's data": func(i *Instance) { i.ExpandedConfig["cloud-init.vendor-data"] = "b" },
	} {
		next := i
		next.ExpandedConfig = maps.Clone(i.ExpandedConfig)
		change(&next)
		if was, ok := seen[cloudID(next)]; ok {
			t.Errorf("%s has the id of %s", name, was)
		}
		seen[cloudID(next)] = name
	}
}

// TestReady is written down for the instance that said so, and no other of its name.
func TestReady(t *testing.T) {
	s, _, p := set(t)
	var told []string
	s.notify = func(_ context.Context, c Change) { told = append(told, c.Action) }
	create(t, s, p, "a", Config{})
	told = nil
	for _, ready := range []bool{false, true, true, false} {
		if err := (asked{s, "default", "a", "uuid-a"}).SetReady(t.Context(), ready); err != nil {
			t.Fatal(err)
		}
		i, err := s.Get(t.Context(), "a")
		if err != nil || kiln.IsTrue(i.Options[readyKey]) != ready || i.Status != Stopped {
			t.Errorf("%v: %v %v, %v", ready, i.Options, i.Status, err)
		}
	}
	if len(told) != 1 || told[0] != "ready" {
		t.Errorf("told %v", told)
	}
	before := asked{s, "default", "a", "uuid-of-another"}
	if err := before.SetReady(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Get(t.Context(), "a"); err != nil || i.Options[readyKey] != "" {
		t.Errorf("another's word was taken: %v, %v", i.Options, err)
	}
	if _, err := before.About(t.Context()); !errors.Is(err, kiln.NotFound) {
		t.Errorf("another was told: %v", err)
	}
}
