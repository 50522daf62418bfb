package db

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestCounts counts rows of several projects, in one query each, and passes over damaged ones.
func TestCounts(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln.db"))
	ctx := t.Context()
	if err := d.CreateProject(ctx, Project{Name: "own", Config: map[string]string{"features.images": "true",
		"features.profiles": "false"}}); err != nil {
		t.Fatal(err)
	}
	scope, err := d.Scope(ctx, "own")
	if err != nil {
		t.Fatal(err)
	}
	file := []kiln.File{{Hash: kiln.Fingerprint{9}, Size: 100}}
	for n, in := range []struct {
		project bool
		img     kiln.Image
	}{
		{false, kiln.Image{Fingerprint: kiln.Fingerprint{1}, Architecture: "x86_64", Public: true, Size: 100, Files: file}},
		{false, kiln.Image{Fingerprint: kiln.Fingerprint{2}, Architecture: "x86_64", Public: true, Size: 107,
			Files: []kiln.File{{Hash: kiln.Fingerprint{8}, Size: 7}, file[0]}}},
		{true, kiln.Image{Fingerprint: kiln.Fingerprint{1}, Architecture: "aarch64", Cached: true, Size: 100, Files: file}},
	} {
		c := ctx
		if in.project {
			c = project.In(ctx, scope)
		}
		if err := d.Tx(c, func(tx *Tx) error { return tx.CreateImage(c, in.img) }); err != nil {
			t.Fatal(n, err)
		}
	}
	for name, c := range map[string]map[string]string{"c1": {"volatile.uuid": "u1"}, "c2": {}} {
		if err := d.CreateInstance(ctx, Instance{Name: name, Type: "container", Config: c}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := d.Warn(ctx, "one", Subject{}, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{d.Warn(ctx, "two", Subject{}, "x"), d.ResolveWarning(ctx, "two", Subject{})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.write.Exec(`UPDATE instances SET config = '{' WHERE name = 'c2'`); err != nil {
		t.Fatal(err)
	}
	before := d.Queries()
	counts, err := d.Counts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := Counts{Projects: []string{"default", "own"}, Images: []ImageCount{
		{"default", "x86_64", true, false, 2, 207}, {"own", "aarch64", false, true, 1, 100}},
		Files: 2, Bytes: 107, Warnings: map[string]int64{"one": 1}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error(diff)
	}
	names, err := d.InstanceNames(ctx)
	if err != nil || len(names) != 2 || names[0].Name != "c1" || names[0].Config["volatile.uuid"] != "u1" ||
		names[1].Name != "c2" || names[1].Config["volatile.uuid"] != "" {
		t.Errorf("%+v, %v", names, err)
	}
	if n := d.Queries() - before; n != 2 {
		t.Errorf("%d queries", n)
	}
}
