package db

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestRules asks in each transaction that gives a project something, or rules, whether they
// allow what it has then: who asked before may have been told of other rules.
func TestRules(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	d.OnRow(func(_ string, _, config map[string]string, _ map[string]map[string]string, _ bool) []string {
		if config["user.bad"] != "" {
			return []string{"user.bad"}
		}
		return nil
	})
	bad := map[string]string{"user.bad": "1"}
	here := project.InDefault(t.Context())
	in := func(name string) context.Context { return project.In(t.Context(), project.Alone(name)) }
	free := func(name string) Project {
		return Project{Name: name, Config: map[string]string{"features.profiles": "true"}}
	}
	if err := errors.Join(d.CreateProject(here, free("instance")), d.CreateProject(here, free("profile")),
		d.CreateProject(here, Project{Name: "ruled", Config: map[string]string{"restricted": "true"}}),
		d.CreateInstance(in("instance"), Instance{Name: "c", Config: bad}),
		d.CreateProfile(in("profile"), Profile{Name: "p", Config: bad})); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"instance", "profile"} {
		restrict := func() error {
			return d.EditProject(here, name, func(p *Project, _ Contents) error { p.Config["restricted"] = "true"; return nil })
		}
		if err := restrict(); !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), name) {
			t.Errorf("rules that what is there breaks, %s: %v", name, err)
		}
		d.Unbound() // as it is while rows are recovered
		if err := restrict(); err != nil {
			t.Error(err)
		}
		if err := d.CheckProject(here, name); !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), name) {
			t.Errorf("of %s: %v", name, err)
		}
		d.unbound = false
	}
	if err := d.CreateInstance(in("ruled"), Instance{Name: "e", Config: map[string]string{}}); err != nil {
		t.Fatal(err)
	}
	for what, edit := range map[string]func(i *Instance) error{
		"configuration": func(i *Instance) error { i.Config["user.bad"] = "1"; return nil },
		"devices": func(i *Instance) error {
			i.Config["user.bad"] = "1"
			i.Devices = map[string]map[string]string{"a": {"type": "disk"}}
			return nil
		},
	} {
		if err := d.EditInstance(in("ruled"), "e", edit); !errors.Is(err, kiln.Denied) {
			t.Errorf("an instance that breaks the rules by its %s: %v", what, err)
		}
	}
	if err := d.DeleteInstance(in("ruled"), "e"); err != nil {
		t.Fatal(err)
	}
	if err := d.MoveInstance(in("instance"), in("ruled"), "c", "c", nil); !errors.Is(err, kiln.Denied) {
		t.Errorf("a move to a project whose rules it breaks: %v", err)
	}
	if err := d.CreateProfile(in("profile"), Profile{Name: "q"}); err != nil {
		t.Errorf("a profile beside one that breaks the rules: %v", err)
	}
	if err := d.CreateProfile(in("profile"), Profile{Name: "r", Config: bad}); !errors.Is(err, kiln.Denied) {
		t.Errorf("a profile that breaks the rules: %v", err)
	}
	d.Unbound()
	err := d.CreateProfile(in("ruled"), Profile{Name: "p", Config: bad}) // it has the default ones
	d.unbound = false
	if err := errors.Join(err, d.CheckProject(here, "ruled")); err != nil {
		t.Errorf("a profile that no instance can have: %v", err)
	}
}
