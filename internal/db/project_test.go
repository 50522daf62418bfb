package db

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestProjects has the same names in two projects and finds each in its own, and nothing by a
// name where several are meant.
func TestProjects(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	if err := errors.Join(d.CreateProfile(t.Context(), Profile{Name: "default"}),
		d.CreateProject(t.Context(), Project{Name: "a", Config: map[string]string{"features.images": "true",
			"features.profiles": "true"}}, Profile{Name: "default"}),
		d.CreateProject(t.Context(), Project{Name: "b"})); err != nil { // which shares the default one's
		t.Fatal(err)
	}
	fp := kiln.Fingerprint{1}
	in := map[string]context.Context{}
	for _, name := range []string{"default", "a", "b"} {
		p, err := d.Scope(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		ctx := project.In(t.Context(), p)
		in[name] = ctx
		if err := d.CreateInstance(ctx, Instance{Name: "c", Description: name, Profiles: []string{"default"}},
			Snapshot{Name: "s", Files: name}); err != nil {
			t.Fatal(err)
		}
		if name == "b" {
			continue
		}
		if err := d.Tx(ctx, func(tx *Tx) error {
			return errors.Join(tx.CreateImage(ctx, kiln.Image{Fingerprint: fp, Filename: name}),
				tx.SetAlias(ctx, kiln.Alias{Name: "x", Description: name, Target: fp}))
		}); err != nil {
			t.Fatal(err)
		}
	}
	for name, images := range map[string]string{"default": "default", "a": "a", "b": "default"} {
		ctx := in[name]
		i, err := d.Instance(ctx, "c")
		s, serr := d.Snapshot(ctx, "c", "s")
		list, ierr := d.Images(ctx, ImageQuery{Fingerprint: fp})
		alias, aerr := d.Alias(ctx, "x")
		if err := errors.Join(err, serr, ierr, aerr); err != nil || i.Description != name || s.Files != name ||
			len(list) != 1 || list[0].Filename != images || alias.Description != images {
			t.Errorf("%s: %+v %+v %+v %+v, %v", name, i, s, list, alias, err)
		}
	}
	for what, ctx := range map[string]context.Context{"all": project.InAll(t.Context()),
		"some": project.Among(t.Context(), []string{"a"})} {
		_, err := d.Instance(ctx, "c")
		if errs := []error{err, d.DeleteInstance(ctx, "c"), d.RenameInstance(ctx, "c", "d"),
			d.CreateInstance(ctx, Instance{Name: "d"}), d.Tx(ctx, func(tx *Tx) error { return tx.DeleteImage(ctx, fp) }),
			d.Tx(ctx, func(tx *Tx) error { return tx.DeleteAlias(ctx, "x") }), d.DeleteProfile(ctx, "default"),
			d.DeleteSnapshot(ctx, "c", "s")}; slices.Contains(errs, nil) {
			t.Errorf("one thing in %s projects: %v", what, errs)
		}
	}
	for _, c := range []struct {
		ctx  context.Context
		want []string
	}{{project.InAll(t.Context()), []string{"default", "a", "b"}}, {in["b"], []string{"b"}},
		{project.Among(t.Context(), []string{"a", "b", "none"}), []string{"a", "b"}},
		{project.Among(t.Context(), nil), nil}} {
		list, err := d.Instances(c.ctx)
		var got []string
		for _, i := range list {
			got = append(got, i.Project)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v, %v; want %v", got, err, c.want)
		}
	}
	if err := d.DeleteProfile(in["b"], "default"); !errors.Is(err, kiln.Conflict) { // b's, too
		t.Error(err)
	}
	if err := errors.Join(d.DeleteInstance(in["a"], "c"),
		d.Tx(in["a"], func(tx *Tx) error { return tx.DeleteImage(in["a"], fp) })); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Alias(in["default"], "x"); err != nil {
		t.Errorf("the alias of another project is gone: %v", err)
	}
}

// TestCountLimit refuses one instance more than a project may have, and no one of another.
func TestCountLimit(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	if err := d.CreateProject(t.Context(), Project{Name: "a", Config: map[string]string{"limits.instances": "1"}}); err != nil {
		t.Fatal(err)
	}
	a := project.In(t.Context(), project.New("a", nil))
	if err := errors.Join(d.CreateInstance(a, Instance{Name: "1"}), d.CreateInstance(t.Context(), Instance{Name: "1"}),
		d.CreateInstance(t.Context(), Instance{Name: "2"})); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateInstance(a, Instance{Name: "2"}); !errors.Is(err, kiln.Invalid) {
		t.Error(err)
	}
	if list, err := d.Instances(a); len(list) != 1 || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestDeleteProject takes the project from certificates, so that one of the same name gives
// its clients nothing; a project that has something stays, by the database itself.
func TestDeleteProject(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	for _, name := range []string{"a", "b"} {
		if err := d.CreateProject(t.Context(), Project{Name: name}, Profile{Name: "default"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.CreateCertificate(t.Context(), Certificate{Fingerprint: "f", Type: ClientCertificate,
		Restricted: true, Projects: []string{"a", "b"}}),
		d.CreateInstance(project.In(t.Context(), project.New("b", nil)), Instance{Name: "c"})); err != nil {
		t.Fatal(err)
	}
	var told Contents
	allowed := func(has Contents) error { told = has; return nil }
	if err := d.DeleteProject(t.Context(), "b", allowed); err == nil || !slices.Equal(told.Instances, []string{"c"}) {
		t.Errorf("%v, having been told of %+v", err, told)
	}
	if err := errors.Join(d.RenameProject(t.Context(), "a", "x", allowed), d.DeleteProject(t.Context(), "x", allowed),
		d.RenameProject(t.Context(), "b", "y", allowed)); err != nil {
		t.Fatal(err)
	}
	list, err := d.Certificates(t.Context())
	if diff := cmp.Diff([]string{"y"}, list[0].Projects); diff != "" || err != nil {
		t.Errorf("%s, %v", diff, err)
	}
	if err := d.DeleteProject(t.Context(), "x", allowed); !errors.Is(err, kiln.NotFound) {
		t.Error(err)
	}
}

// TestDeleteProjectOfDamaged leaves what can't be read of a certificate as it is.
func TestDeleteProjectOfDamaged(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	if err := errors.Join(d.CreateProject(t.Context(), Project{Name: "a"}),
		d.CreateCertificate(t.Context(), Certificate{Fingerprint: "f", Type: ClientCertificate,
			Restricted: true})); err != nil {
		t.Fatal(err)
	}
	const damaged = `["a", 3]`
	execute(t, d, `UPDATE certificates SET projects = '`+damaged+`'`)
	if err := d.DeleteProject(t.Context(), "a", func(Contents) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var now string
	err := d.write.QueryRowContext(t.Context(), `SELECT projects FROM certificates`).Scan(&now)
	if err != nil || now != damaged {
		t.Errorf("%q, %v", now, err)
	}
}

// TestMoveInstance moves an instance with its snapshots; each is found in the other
// project then, with the profiles of the same names there.
func TestMoveInstance(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	var told []Name
	d.OnChange(func(c Changes) {
		for n := range c.Instances {
			told = append(told, n)
		}
	})
	here, there := project.InDefault(t.Context()), project.In(t.Context(), project.Alone("a"))
	if err := errors.Join(d.CreateProfile(here, Profile{Name: "p", Description: "here"}),
		d.CreateProfile(here, Profile{Name: "only-here"}),
		d.CreateProject(here, Project{Name: "a", Config: map[string]string{"limits.instances": "1"}},
			Profile{Name: "p", Description: "there"}, Profile{Name: "q"}),
		d.CreateInstance(here, Instance{Name: "c", Profiles: []string{"p", "only-here"}},
			Snapshot{Name: "s", Profiles: []string{"only-here", "p"}}),
		d.CreateInstance(there, Instance{Name: "taken"})); err != nil {
		t.Fatal(err)
	}
	told = nil
	for name, refused := range map[string]error{
		"taken": kiln.Conflict, "one-too-many": kiln.Invalid,
	} {
		if err := d.MoveInstance(here, there, "c", name, []string{"p"}); !errors.Is(err, refused) {
			t.Errorf("to %s: %v", name, err)
		}
	}
	if err := d.DeleteInstance(there, "taken"); err != nil {
		t.Fatal(err)
	}
	if err := d.MoveInstance(here, there, "c", "d", []string{"only-here"}); !errors.Is(err, kiln.NotFound) {
		t.Errorf("with a profile that isn't there: %v", err)
	}
	if i, err := d.Instance(here, "c"); err != nil || !slices.Equal(i.Profiles, []string{"p", "only-here"}) {
		t.Errorf("after moves that failed: %+v, %v", i, err)
	}
	told = nil
	if err := d.MoveInstance(here, there, "c", "d", []string{"q", "p"}); err != nil {
		t.Fatal(err)
	}
	i, err := d.Instance(there, "d")
	s, serr := d.Snapshot(there, "d", "s")
	if err := errors.Join(err, serr); err != nil || !slices.Equal(i.Profiles, []string{"q", "p"}) ||
		!slices.Equal(s.Profiles, []string{"p"}) {
		t.Errorf("%+v, %+v, %v", i, s, err)
	}
	if _, err := d.Instance(here, "c"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("it is there as before: %v", err)
	}
	if err := d.DeleteProfile(here, "p"); err != nil { // nobody there has it any more
		t.Error(err)
	}
	if err := d.DeleteProfile(there, "p"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("a profile that it has: %v", err)
	}
	for _, n := range []Name{{"default", "c"}, {"a", "d"}} {
		if !slices.Contains(told, n) {
			t.Errorf("%v isn't told, but %v", n, told)
		}
	}
}

// TestRenameProjectOfClients: a client that may use both names, as one that was there once, has the
// name once.
func TestRenameProjectOfClients(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	if err := errors.Join(d.CreateProject(t.Context(), Project{Name: "a"}),
		d.CreateCertificate(t.Context(), Certificate{Fingerprint: "f", Type: ClientCertificate, Restricted: true,
			Projects: []string{"b", "a", "c"}})); err != nil {
		t.Fatal(err)
	}
	if err := d.RenameProject(t.Context(), "a", "b", func(Contents) error { return nil }); err != nil {
		t.Fatal(err)
	}
	list, err := d.Certificates(t.Context())
	if err != nil || len(list) != 1 || strings.Join(slices.Sorted(slices.Values(list[0].Projects)), " ") != "b c" {
		t.Errorf("%+v, %v", list, err)
	}
}
