package instance

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// TestMeaning has another instance come to the name of one: neither a copy made at another
// time of the same backups, nor one made at the same time, is it.
func TestMeaning(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "c", Config{})
	i, err := s.Get(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	ctx := Meaning(t.Context(), i)
	if _, err := s.Get(ctx, "c"); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*db.Instance){
		"of another time":         func(r *db.Instance) { r.CreatedAt = r.CreatedAt.Add(time.Hour) },
		"with backups of its own": func(r *db.Instance) { r.Config[backupsKey] = "other" },
	} {
		row, err := d.Instance(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		was := row
		was.Config = maps.Clone(row.Config)
		edit := func(f func(*db.Instance)) {
			if err := s.edit(t.Context(), "c", f); err != nil {
				t.Fatal(err)
			}
		}
		edit(change)
		if _, err := s.Get(ctx, "c"); !errors.Is(err, kiln.Conflict) {
			t.Errorf("%s: %v", what, err)
		}
		edit(func(r *db.Instance) { r.CreatedAt, r.Config = was.CreatedAt, was.Config })
	}
}
