package db

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestChanges makes sure that everything that writes a row tells of it.
func TestChanges(t *testing.T) {
	d := withImages(t, 3)
	ctx := t.Context()
	a, b := testImage(0), testImage(1)
	var got Changes
	d.OnChange(func(c Changes) { got = c })
	tx := func(f func(*Tx) error) func() error { return func() error { return d.Tx(ctx, f) } }
	images := func(list ...kiln.Image) string {
		var names []string
		for _, i := range list {
			names = append(names, i.Fingerprint.Short())
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	sameTime := func(time.Time) (time.Time, error) { return time.Time{}, nil }
	for _, step := range []struct {
		name, want string
		do         func() error
	}{
		{"make a profile", "profiles", func() error { return d.CreateProfile(ctx, Profile{Name: "p"}) }},
		{"edit it", "profiles", func() error { return d.EditProfile(ctx, "p", func(*Profile) error { return nil }) }},
		{"rename it", "profiles", func() error { return d.RenameProfile(ctx, "p", "q") }},
		{"make a project", "profiles projects", func() error { return d.CreateProject(ctx, Project{Name: "p"}, Profile{Name: "x"}) }},
		{"edit it", "projects", func() error { return d.EditProject(ctx, "p", func(*Project, Contents) error { return nil }) }},
		{"rename it", "profiles projects", func() error { return d.RenameProject(ctx, "p", "q", func(Contents) error { return nil }) }},
		{"delete it", "profiles projects", func() error { return d.DeleteProject(ctx, "q", func(Contents) error { return nil }) }},
		{"make a network", "networks", func() error { return d.CreateNetwork(ctx, Network{Name: "n"}) }},
		{"edit it", "networks", func() error { return d.EditNetwork(ctx, "n", func(*Network) error { return nil }) }},
		{"rename it", "networks", func() error { return d.RenameNetwork(ctx, "n", "m") }},
		{"delete it", "networks", func() error { return d.DeleteNetwork(ctx, "m") }},
		{"make an instance", "c1", func() error { return d.CreateInstance(ctx, Instance{Name: "c1"}) }},
		{"edit it", "c1", func() error { return d.EditInstance(ctx, "c1", func(*Instance) error { return nil }) }},
		{"rename it", "c1 c2", func() error { return d.RenameInstance(ctx, "c1", "c2") }},
		{"snapshot it", "c2", func() error { return d.CreateSnapshot(ctx, Snapshot{Instance: "c2", Name: "s", Files: "f"}) }},
		{"rename it", "c2", func() error { return d.RenameSnapshot(ctx, "c2", "s", "s2") }},
		{"let it expire", "c2", func() error { return d.SetSnapshotExpiry(ctx, "c2", "s2", sameTime) }},
		{"delete it", "c2", func() error { return d.DeleteSnapshot(ctx, "c2", "s2") }},
		{"delete the instance", "c2", func() error { return d.DeleteInstance(ctx, "c2") }},
		{"delete the profile", "profiles", func() error { return d.DeleteProfile(ctx, "q") }},
		{"make an alias", images(a), tx(func(tx *Tx) error { return tx.SetAlias(ctx, kiln.Alias{Name: "x", Target: a.Fingerprint}) })},
		{"move it", images(a, b), tx(func(tx *Tx) error { return tx.SetAlias(ctx, kiln.Alias{Name: "x", Target: b.Fingerprint}) })},
		{"roll back", images(a, b), tx(func(tx *Tx) error { return tx.RollBack(ctx, "x", 1) })},
		{"rename it", images(a, b), tx(func(tx *Tx) error { return tx.RenameAlias(ctx, "x", "y") })},
		{"move all", images(a, b), tx(func(tx *Tx) error { return tx.MoveAliases(ctx, b.Fingerprint, a.Fingerprint) })},
		{"delete it", images(a, b), tx(func(tx *Tx) error { return tx.DeleteAlias(ctx, "y") })},
		{"edit an image", images(a), tx(func(tx *Tx) error { return tx.UpdateImage(ctx, a) })},
		{"use it", "", tx(func(tx *Tx) error { return tx.TouchImage(ctx, a.Fingerprint, time.Now()) })},
		{"delete it", images(a), tx(func(tx *Tx) error { return tx.DeleteImage(ctx, a.Fingerprint) })},
		{"add it", images(a), tx(func(tx *Tx) error { return tx.CreateImage(ctx, a) })},
	} {
		got = Changes{}
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		var list []string
		for i := range got.Instances {
			list = append(list, i.Name)
		}
		for fp := range got.Images {
			list = append(list, fp.Fingerprint.Short())
		}
		if got.Profiles {
			list = append(list, "profiles")
		}
		if got.Projects {
			list = append(list, "projects")
		}
		if got.Networks {
			list = append(list, "networks")
		}
		slices.Sort(list)
		if text := strings.Join(list, " "); text != step.want {
			t.Errorf("%s: changed %q, want %q", step.name, text, step.want)
		}
	}
}

// TestAccess makes sure that whoever changes who may have an image, or by which key it is bound,
// is told of it, once it is so, and of nothing else.
func TestAccess(t *testing.T) {
	d := withImages(t, 0)
	type marked struct{}
	ctx := context.WithValue(t.Context(), marked{}, true)
	var got []Access
	d.OnAccess(func(ctx context.Context, a Access) {
		if ctx.Value(marked{}) == nil || a.Project != "default" || a.Fingerprint != testImage(0).Fingerprint {
			t.Errorf("%+v", a)
		}
		a.Image = Image{}
		got = append(got, a)
	})
	img := testImage(0)
	img.Public, img.Origin = false, nil
	bound := func(key string) *kiln.Origin { return &kiln.Origin{Remote: kiln.Remote{ImageKey: key}} }
	create := func(tx *Tx) error { return tx.CreateImage(ctx, img) }
	update := func(tx *Tx) error { return tx.UpdateImage(ctx, img) }
	for _, step := range []struct {
		name   string
		change func()
		do     func(*Tx) error
		want   []Access
	}{
		{"make it", func() {}, create, nil},
		{"publish it", func() { img.Public = true }, update, []Access{{Public: true}}},
		{"write it again", func() {}, update, nil},
		{"make it again", func() { img.Public = false }, create, nil},
		{"fail", func() {}, func(tx *Tx) error { return errors.Join(tx.UpdateImage(ctx, img), kiln.Conflict) }, nil},
		{"bind it", func() { img.Public, img.Origin = true, bound("k") }, update,
			[]Access{{Public: true, WasPublic: true, Key: "k"}}},
		{"bind it to another", func() { img.Public, img.Origin = false, bound("l") }, update,
			[]Access{{WasPublic: true, Key: "l", HadKey: "k"}}},
		{"let it go", func() { img.Origin = nil }, update, []Access{{HadKey: "l"}}},
		{"delete it", func() {}, func(tx *Tx) error {
			_, err := tx.tx.ExecContext(ctx, `DELETE FROM images`)
			return err
		}, nil},
		{"make it public", func() { img.Public, img.Origin = true, bound("k") }, create, []Access{{Public: true, Key: "k"}}},
	} {
		got = nil
		step.change()
		err := d.Tx(ctx, step.do)
		if err != nil && !errors.Is(err, kiln.Conflict) || !slices.Equal(got, step.want) {
			t.Errorf("%s: told %+v, not %+v; %v", step.name, got, step.want, err)
		}
	}
}
