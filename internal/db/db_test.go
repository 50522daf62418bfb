package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

func open(t *testing.T, path string) *DB {
	t.Helper()
	d, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// setConfig changes settings whatever they were.
func setConfig(ctx context.Context, d *DB, change map[string]string) error {
	return d.EditConfig(ctx, func(map[string]string) (map[string]string, error) { return change, nil })
}

func TestInstances(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	want := Instance{
		Project: "default", Name: "c1", Type: "container", Architecture: "x86_64", Description: "d", Ephemeral: true,
		CreatedAt: time.Unix(1, 5).UTC(), Base: kiln.Fingerprint{7},
		Config: map[string]string{"a": "1"}, Devices: map[string]map[string]string{"root": {"path": "/"}},
		Profiles: []string{"b", "a"},
	}
	for _, name := range []string{"a", "b"} {
		if err := d.CreateProfile(t.Context(), Profile{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.CreateInstance(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateInstance(t.Context(), want); !errors.Is(err, kiln.Conflict) {
		t.Errorf("twice: %v", err)
	}
	d.Close()
	d = open(t, path) // and with the tables there already
	if got, err := d.Instance(t.Context(), "c1"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%s, %v", cmp.Diff(want, got), err)
	}
	failed := errors.New("no")
	if err := d.EditInstance(t.Context(), "c1", func(i *Instance) error {
		i.Description = "x"
		return failed
	}); !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := d.EditInstance(t.Context(), "c1", func(i *Instance) error { i.Running = true; return nil }); err != nil {
		t.Error(err)
	}
	want.Running = true
	if list, err := d.Instances(t.Context()); err != nil || cmp.Diff([]Instance{want}, list) != "" {
		t.Errorf("%s, %v", cmp.Diff([]Instance{want}, list), err)
	}
	for _, err := range []error{
		d.RenameInstance(t.Context(), "none", "x"), d.DeleteInstance(t.Context(), "none"),
		d.EditInstance(t.Context(), "none", func(*Instance) error { return nil }),
	} {
		if !errors.Is(err, kiln.NotFound) {
			t.Error(err)
		}
	}
	if err := errors.Join(d.RenameInstance(t.Context(), "c1", "c2"), d.DeleteInstance(t.Context(), "c2")); err != nil {
		t.Error(err)
	}
}

func TestProfiles(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	if err := d.CreateProfile(t.Context(), Profile{Name: "a", Config: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateProfile(t.Context(), Profile{Name: "a"}); !errors.Is(err, kiln.Conflict) {
		t.Error(err)
	}
	if err := d.CreateInstance(t.Context(), Instance{Name: "c1", Profiles: []string{"x"}}); !errors.Is(err, kiln.NotFound) {
		t.Errorf("a profile that isn't there: %v", err)
	}
	if err := d.CreateProfile(t.Context(), Profile{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateInstance(t.Context(), Instance{Name: "c1", Profiles: []string{"x", "a"}}); err != nil {
		t.Fatal(err)
	}
	err := d.Tx(t.Context(), func(tx *Tx) error {
		return tx.CreateImage(t.Context(), kiln.Image{Fingerprint: kiln.Fingerprint{1}, Profiles: []string{"a"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	// Images of others may mean the default project's profiles, or those of their own project.
	for _, name := range []string{"shares", "apart"} {
		p := Project{Name: name, Config: map[string]string{"features.images": "true",
			"features.profiles": fmt.Sprint(name == "apart")}}
		in := project.In(t.Context(), project.New(name, p.Config))
		if err := errors.Join(d.CreateProject(t.Context(), p, Profile{Name: "a"}), d.Tx(in, func(tx *Tx) error {
			return tx.CreateImage(in, kiln.Image{Fingerprint: kiln.Fingerprint{1}, Profiles: []string{"a"}})
		})); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.RenameProfile(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"shares": "b", "apart": "a"} {
		list, err := d.Images(project.In(t.Context(), project.Alone(name)), ImageQuery{})
		if err != nil || len(list) != 1 || cmp.Diff([]string{want}, list[0].Profiles) != "" {
			t.Errorf("%s: %+v, %v; want %s", name, list, err, want)
		}
	}
	if i, _ := d.Instance(t.Context(), "c1"); cmp.Diff([]string{"x", "b"}, i.Profiles) != "" {
		t.Errorf("%v", i.Profiles)
	}
	if err := d.EditInstance(t.Context(), "c1", func(i *Instance) error { i.Profiles = []string{"x"}; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteProfile(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if list, _ := d.Images(t.Context(), ImageQuery{}); len(list) != 1 || len(list[0].Profiles) != 0 {
		t.Errorf("%+v", list)
	}
	if _, err := d.Profile(t.Context(), "b"); !errors.Is(err, kiln.NotFound) {
		t.Error(err)
	}
}

// TestProfileInUse has no instance end up with a profile that is gone.
func TestProfileInUse(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln.db"))
	ctx := t.Context()
	if err := errors.Join(d.CreateProfile(ctx, Profile{Name: "p"}), d.CreateProfile(ctx, Profile{Name: "q"}),
		d.CreateInstance(ctx, Instance{Name: "c1", Profiles: []string{"p"}})); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteProfile(ctx, "p"); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("a profile in use: %v", err)
	}
	if err := d.DeleteProfile(ctx, "q"); err != nil {
		t.Fatal(err)
	}
	edit := func(list ...string) error {
		return d.EditInstance(ctx, "c1", func(i *Instance) error { i.Profiles = list; return nil })
	}
	if err := edit("p", "q"); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("an edit with a profile that is gone: %v", err)
	}
	if err := d.CreateInstance(ctx, Instance{Name: "c2", Profiles: []string{"q"}}); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("an instance with a profile that is gone: %v", err)
	}
	if err := edit(); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteProfile(ctx, "p"); err != nil {
		t.Errorf("a profile that was in use: %v", err)
	}
}

func TestConfig(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	for _, change := range []map[string]string{{"a": "1", "b": "2"}, {"a": "", "c": "3"}} {
		if err := setConfig(t.Context(), d, change); err != nil {
			t.Fatal(err)
		}
	}
	got, err := d.Config(t.Context())
	if diff := cmp.Diff(map[string]string{"b": "2", "c": "3"}, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
}

func TestImages(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	add := func(tx *Tx, first byte, public bool, properties map[string]string) error {
		fp := kiln.Fingerprint{first}
		return tx.CreateImage(t.Context(), kiln.Image{Fingerprint: fp, Public: public, Properties: properties,
			Files: []kiln.File{{Role: kiln.Unified, Hash: fp}}})
	}
	err := d.Tx(t.Context(), func(tx *Tx) error {
		return errors.Join(add(tx, 0xab, true, map[string]string{"os": "Debian"}),
			add(tx, 0xac, false, map[string]string{"os": "debian", "release": "12"}), add(tx, 0xff, false, nil),
			tx.SetAlias(t.Context(), kiln.Alias{Name: "x", Target: kiln.Fingerprint{0xab}}))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q ImageQuery
		n int
	}{
		{ImageQuery{}, 3}, {ImageQuery{Prefix: "a"}, 2}, {ImageQuery{Prefix: "ab"}, 1}, {ImageQuery{Prefix: "f"}, 1},
		{ImageQuery{Prefix: "0"}, 0},
		{ImageQuery{Public: true}, 1}, {ImageQuery{Properties: map[string]string{"os": "DEBIAN"}}, 2},
		{ImageQuery{Properties: map[string]string{"os": "debian", "release": "12"}}, 1},
		{ImageQuery{Fingerprint: kiln.Fingerprint{0xff}}, 1},
	} {
		c.q.Files = true
		list, err := d.Images(t.Context(), c.q)
		if len(list) != c.n || err != nil {
			t.Errorf("%+v: %d images, %v", c.q, len(list), err)
		}
		for _, i := range list {
			if len(i.Files) != 1 || (i.Fingerprint[0] == 0xab) != (len(i.Aliases) == 1) {
				t.Errorf("%+v: %+v", c.q, i)
			}
		}
	}
	err = d.Tx(t.Context(), func(tx *Tx) error { return tx.DeleteImage(t.Context(), kiln.Fingerprint{0xab}) })
	if err != nil {
		t.Fatal(err)
	}
	if all, err := d.Aliases(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("aliases left: %v, %v", all, err)
	}
	if used, err := d.Blobs(t.Context()); len(used) != 2 || err != nil {
		t.Errorf("%v, %v", used, err)
	}
	if err := d.Tx(context.Background(), func(tx *Tx) error {
		return tx.SetAlias(t.Context(), kiln.Alias{Name: "y", Target: kiln.Fingerprint{1}})
	}); !errors.Is(err, kiln.NotFound) {
		t.Errorf("alias of nothing: %v", err)
	}
}
