package daemon

import (
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestRecoverProfilesOfMissing takes a profile from a record only if it counts more than the row, and
// only from that of an instance that has no row: one that has says nothing of the profiles as they
// are.
func TestRecoverProfilesOfMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	end(t, open(t, dir))
	ctx := project.InAll(t.Context())
	d, err := db.Open(ctx, filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	profile := func(description string) db.Profile { return db.Profile{Name: "p", Description: description} }
	v := &recoverer{Daemon: &Daemon{cfg: Config{Dir: dir}, db: d}, settled: map[db.Name]bool{}}
	in, err := v.inProject(ctx, project.Default)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CreateProfile(in, profile("now")); err != nil {
		t.Fatal(err)
	}
	records := map[string]instance.Record{"u": {Instance: db.Instance{Name: "c1", Project: project.Default},
		Profiles: []db.Profile{profile("then")}}}
	for _, c := range []struct {
		what     string
		overrule bool
		rows     map[string]db.Instance
		want     string
	}{
		{"of an instance with a row", true, map[string]db.Instance{"u": {}}, "now"},
		{"where rows count", false, nil, "now"},
		{"where records count", true, nil, "then"},
	} {
		v.overrule, v.settled = c.overrule, map[db.Name]bool{}
		if err := v.recoverProfiles(ctx, []string{"u"}, records, c.rows); err != nil {
			t.Fatal(err)
		}
		if p, err := d.Profile(in, "p"); err != nil || p.Description != c.want {
			t.Errorf("%s: %q, %v", c.what, p.Description, err)
		}
	}
}
