package instance

import (
	"errors"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// TestClaim makes names up for many at once, more than there are of two words.
func TestClaim(t *testing.T) {
	s, _, p := set(t)
	const many = 5000
	names := make(chan string, many)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range many / 50 {
				name, _, err := s.Claim(t.Context(), "")
				if err != nil {
					t.Error(err)
				}
				names <- name
			}
		})
	}
	wg.Wait()
	close(names)
	seen := map[string]bool{}
	for n := range names {
		if seen[n] {
			t.Errorf("%q twice", n)
		}
		seen[n] = true
	}
	_, release, err := s.Claim(t.Context(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Claim(t.Context(), "mine"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("a name that is being used: %v", err)
	}
	create(t, s, p, "mine", Config{})
	release()
	if _, _, err := s.Claim(t.Context(), "mine"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("a name that is used: %v", err)
	}
	if _, _, err := s.Claim(t.Context(), "not/good"); !errors.Is(err, kiln.Invalid) {
		t.Errorf("a bad name: %v", err)
	}
}

// TestCreateFails keeps nothing: not when a profile goes between the check and the
// row, nor when the name is taken by then.
func TestCreateFails(t *testing.T) {
	s, d, p := set(t)
	ctx := t.Context()
	if err := d.CreateProfile(ctx, db.Profile{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	create(t, s, p, "a", Config{})
	c := Config{Profiles: []string{"default", "gone"}}
	if err := s.Check(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteProfile(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	before, err := p.List()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		c    Config
		kind kiln.Kind
	}{"b": {c, kiln.NotFound}, "a": {Config{Profiles: []string{"default"}}, kiln.Conflict}} {
		f := s.NewFiles()
		if _, err := p.Empty(ctx, f.UUID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(ctx, New{Name: name, Config: want.c}, f); !errors.Is(err, want.kind) {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if after, err := p.List(); len(after) != len(before) || err != nil {
		t.Errorf("%v, %v, %v", before, after, err)
	}
	if list, err := s.List(ctx); len(list) != 1 || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
}
