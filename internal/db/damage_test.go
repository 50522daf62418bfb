package db

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestDamageIsNamed: a text that is none, and a number that can't be, are the damage of
// their row, which names the column. The others are read.
func TestDamageIsNamed(t *testing.T) {
	d := withImages(t, 2)
	for _, name := range []string{"p", "q"} {
		if err := d.CreateProfile(t.Context(), Profile{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, d, `UPDATE profiles SET description = CAST(X'FF' AS TEXT) WHERE name = 'q'`)
	execute(t, d, `UPDATE images SET size = -1 WHERE id = 2`)
	profiles, err := d.Profiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range profiles {
		if (p.Name == "q") != strings.Contains(p.Damage, "column description ") {
			t.Errorf("profile %q: %q", p.Name, p.Damage)
		}
	}
	images, err := d.Images(t.Context(), ImageQuery{})
	if err != nil || len(images) != 2 {
		t.Fatal(images, err)
	}
	for _, i := range images {
		bad := i.Fingerprint == testImage(1).Fingerprint
		if bad != strings.Contains(i.Damage, "column size ") || i.Size < 0 {
			t.Errorf("image %s of %d bytes: %q", i.Fingerprint.Short(), i.Size, i.Damage)
		}
	}
	// Whether everybody may see a damaged one isn't known.
	execute(t, d, `UPDATE images SET public = true`)
	public := func() string {
		t.Helper()
		list, err := d.Images(t.Context(), ImageQuery{Public: true, Files: true})
		if err != nil {
			t.Fatal(err)
		}
		names := ""
		for _, i := range list {
			names += i.Aliases[0].Name + " "
		}
		return names
	}
	if names := public(); names != "0/a " {
		t.Errorf("public are %q", names)
	}
	execute(t, d, `UPDATE images SET size = 1`)
	execute(t, d, `UPDATE image_files SET size = -1 WHERE image_id = 1`)
	if names := public(); names != "1/a " {
		t.Errorf("after the damage of a file: public are %q", names)
	}
}

// TestDamagedEvents: of the history of aliases, a damaged row is left out.
func TestDamagedEvents(t *testing.T) {
	d := withImages(t, 1)
	fp := testImage(0).Fingerprint
	if err := d.Tx(t.Context(), func(tx *Tx) error {
		for _, name := range []string{"bad", "good", "other"} {
			if err := tx.SetAlias(t.Context(), kiln.Alias{Name: name, Target: fp}); err != nil {
				return err
			}
		}
		return tx.AddEvent(t.Context(), fp, Event{Alias: "last", At: time.Now()})
	}); err != nil {
		t.Fatal(err)
	}
	execute(t, d, `UPDATE alias_history SET at = 'yesterday' WHERE name = 'bad'`)
	for _, only := range []kiln.Fingerprint{{}, fp} {
		events, err := d.EventsOf(t.Context(), only)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range events[Image{project.Default, fp}] {
			names = append(names, e.Alias)
		}
		if want := []string{"0/a", "0/b", "good", "other", "last"}; !slices.Equal(names, want) {
			t.Errorf("%q, want %q", names, want)
		}
	}
}

func execute(t *testing.T, d *DB, statement string) {
	t.Helper()
	if _, err := d.write.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
