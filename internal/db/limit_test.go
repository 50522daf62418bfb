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

// TestSumLimits bounds what the instances of a project have together, whichever way it
// changes: by an instance, by a profile that another project has as well, by a move, or by
// the project.
func TestSumLimits(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	shared := project.New("a", map[string]string{"features.profiles": "false"})
	a, other := project.In(t.Context(), shared), project.InDefault(t.Context())
	if err := errors.Join(d.CreateProfile(other, Profile{Name: "small", Config: map[string]string{"limits.memory": "1GiB"}}),
		d.CreateProfile(other, Profile{Name: "large", Config: map[string]string{"limits.memory": "2GiB"}}),
		d.CreateProject(t.Context(), Project{Name: "a", Config: map[string]string{"limits.memory": "3GiB",
			"limits.cpu": "4"}}),
		d.CreateInstance(a, Instance{Name: "1", Profiles: []string{"small"}, Config: map[string]string{"limits.cpu": "2"}}),
		d.CreateInstance(a, Instance{Name: "2", Profiles: []string{"small"}, Config: map[string]string{"limits.cpu": "1",
			"limits.memory": "2GiB"}}),
		d.CreateInstance(other, Instance{Name: "large", Config: map[string]string{"limits.memory": "64GiB",
			"limits.cpu": "0"}})); err != nil {
		t.Fatal(err)
	}
	create := func(name string, config map[string]string) func() error {
		return func() error { return d.CreateInstance(a, Instance{Name: name, Config: config}) }
	}
	set := func(name, key, value string) func() error {
		return func() error {
			return d.EditInstance(a, name, func(i *Instance) error { i.Config[key] = value; return nil })
		}
	}
	profile := func(memory string) func() error {
		return func() error {
			return d.EditProfile(other, "small", func(p *Profile) error { p.Config["limits.memory"] = memory; return nil })
		}
	}
	limit := func(key, value string) func() error {
		return func() error {
			return d.EditProject(t.Context(), "a", func(p *Project, _ Contents) error { p.Config[key] = value; return nil })
		}
	}
	profiles := func(name string, names ...string) func() error {
		return func() error {
			return d.EditInstance(a, name, func(i *Instance) error { i.Profiles = names; return nil })
		}
	}
	move := func(from, to context.Context, name string) func() error {
		return func() error { return d.MoveInstance(from, to, name, name, nil) }
	}
	for n, step := range []struct {
		do   func() error
		kind kiln.Kind
		says string
	}{
		{create("3", map[string]string{"limits.cpu": "1"}), kiln.Invalid, `3GiB of limits.memory together, so each`},
		{create("3", map[string]string{"limits.cpu": "1", "limits.memory": "1"}), kiln.Invalid, "would have more"},
		{create("3", map[string]string{"limits.memory": "10%", "limits.cpu": "1"}), kiln.Invalid, `"10%" is not a size`},
		{set("1", "limits.cpu", "0-1"), kiln.Invalid, `"0-1" is not a whole number`},
		{set("1", "limits.cpu", "4"), kiln.Invalid, "4 of limits.cpu together"},
		{set("1", "user.a", "b"), "", ""},
		{set("1", "limits.cpu", "3"), "", ""},
		{profiles("1", "small", "large"), kiln.Invalid, "would have more"},
		{profile("2GiB"), kiln.Invalid, "would have more"},
		{profile(""), kiln.Invalid, `"1" doesn't`},
		{profile("512MiB"), "", ""},
		{profile("1GiB"), "", ""},
		{move(other, a, "large"), kiln.Invalid, "would have more"},
		{limit("limits.memory", "2GiB"), kiln.Conflict, "would have more"},
		{limit("limits.processes", "100"), kiln.Conflict, "100 of limits.processes"},
		{limit("user.a", "b"), "", ""},
		{limit("limits.memory", "4GiB"), "", ""},
		{limit("limits.cpu", ""), "", ""},
		{create("3", map[string]string{"limits.memory": "1GiB"}), "", ""},
		{move(a, other, "2"), "", ""},
		{set("3", "limits.memory", "3GiB"), "", ""},
	} {
		err := step.do()
		if err != nil && kiln.KindOf(err) != step.kind || err == nil && step.kind != "" ||
			err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("step %d: %v, want %q %q", n, err, step.kind, step.says)
		}
	}
}
