package store

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// put makes an image under an alias that moves, whatever it points to.
func put(t *testing.T, s *Store, name string, img kiln.Image) kiln.Fingerprint {
	t.Helper()
	img.Aliases = alias(name)
	got, err := s.With(PutOptions{MoveAliases: true}).Put(t.Context(), img,
		files(formattest.Tiny(t, name+fmt.Sprint(img.Properties))))
	if err != nil {
		t.Fatal(err)
	}
	return got.Fingerprint
}

func version(n string) map[string]string { return map[string]string{"n": n} }

func get(t *testing.T, s *Store, fp kiln.Fingerprint) kiln.Image {
	t.Helper()
	img, err := s.Get(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestEveryMoveKeepsVersions moves an alias in each of the ways there are: the image
// that it leaves is the older version of the other.
func TestEveryMoveKeepsVersions(t *testing.T) {
	ctx := t.Context()
	for way, move := range map[string]func(*Store, kiln.Alias) error{
		"edit": func(s *Store, a kiln.Alias) error {
			_, err := s.UpdateAlias(ctx, a.Name, func(b *kiln.Alias) error {
				b.Target = a.Target
				return nil
			})
			return err
		},
		"delete and create": func(s *Store, a kiln.Alias) error {
			return errors.Join(s.DeleteAlias(ctx, a.Name), s.CreateAlias(ctx, a))
		},
		"apply": func(s *Store, a kiln.Alias) error {
			return s.Apply(ctx, a.Target, kiln.Image{Aliases: []kiln.Alias{a}}, true)
		},
		"put again": func(s *Store, a kiln.Alias) error {
			_, err := s.With(PutOptions{MoveAliases: true}).Put(ctx, kiln.Image{Aliases: []kiln.Alias{a}},
				files(formattest.Tiny(t, "other"+fmt.Sprint(version("2")))))
			if errors.Is(err, kiln.Conflict) {
				return nil
			}
			return err
		},
	} {
		s := open(t, t.TempDir())
		one := put(t, s, "web", kiln.Image{Properties: version("1")})
		two := put(t, s, "other", kiln.Image{Properties: version("2")})
		if err := move(s, kiln.Alias{Name: "web", Target: two}); err != nil {
			t.Fatal(way, err)
		}
		if img := get(t, s, one); img.ReplacedBy != two {
			t.Errorf("%s: the old image was replaced by %s", way, img.ReplacedBy.Short())
		}
		if a, err := s.Alias(ctx, "web@1"); a.Target != one || err != nil {
			t.Errorf("%s: web@1 is %s, %v", way, a.Target.Short(), err)
		}
	}
}

// TestRollBackHandsUpdatesBack has an image that is updated from elsewhere, with a
// second alias that stays.
func TestRollBackHandsUpdatesBack(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	from := &kiln.Origin{Remote: kiln.Remote{Protocol: kiln.ProtocolKiln, Server: "https://a"}, Alias: "web"}
	one := put(t, s, "web", kiln.Image{Properties: version("1"), AutoUpdate: true, Origin: from})
	two, err := s.With(PutOptions{Replaces: one}).Put(ctx, kiln.Image{Properties: version("2")},
		files(formattest.Tiny(t, "2")))
	if err != nil {
		t.Fatal(err)
	}
	three, err := s.With(PutOptions{Replaces: two.Fingerprint}).Put(ctx, kiln.Image{Properties: version("3")},
		files(formattest.Tiny(t, "3")))
	if err != nil || !three.AutoUpdate || get(t, s, one).AutoUpdate {
		t.Fatalf("%+v, %v", three, err)
	}
	if err := s.CreateAlias(ctx, kiln.Alias{Name: "stays", Target: three.Fingerprint}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{-1, 0, 3, 1 << 30} {
		if _, _, err := s.RollBack(ctx, "web", n); err == nil {
			t.Errorf("%d versions back", n)
		}
	}
	left, to, err := s.RollBack(ctx, "web", 2)
	if err != nil || left.Fingerprint != three.Fingerprint || to.Fingerprint != one || !to.AutoUpdate ||
		to.Origin.Key() != from.Key() {
		t.Errorf("%+v, %+v, %v", left, to, err)
	}
	if img := get(t, s, three.Fingerprint); !img.AutoUpdate || !img.ReplacedBy.IsZero() || len(img.Aliases) != 1 {
		t.Errorf("an image that has a name still: %+v", img)
	}
	if img := get(t, s, two.Fingerprint); img.ReplacedBy != one || img.AutoUpdate {
		t.Errorf("a version between: %+v", img)
	}
	if list, err := s.RolledBackFrom(ctx, one); len(list) != 2 || list[0] != three.Fingerprint || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	if _, _, err := s.RollBack(ctx, "web", 1); !errors.Is(err, kiln.NotFound) {
		t.Errorf("before the first: %v", err)
	}
	// The version after those takes over.
	four, err := s.With(PutOptions{Replaces: one}).Put(ctx, kiln.Image{}, files(formattest.Tiny(t, "4")))
	if list, lerr := s.RolledBackFrom(ctx, four.Fingerprint); len(list) != 0 || !four.AutoUpdate ||
		errors.Join(err, lerr) != nil {
		t.Errorf("%+v, %v, %v, %v", four, list, err, lerr)
	}
	// What was deleted can't be gone back to.
	if err := s.Delete(ctx, one); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RollBack(ctx, "web", 1); !errors.Is(err, kiln.NotFound) {
		t.Errorf("a version that was deleted: %v", err)
	}
	if a, err := s.Alias(ctx, "web"); a.Target != four.Fingerprint || err != nil {
		t.Errorf("what failed moved the alias: %+v, %v", a, err)
	}
}

// TestKeepExisting changes nothing of an image that is here.
func TestKeepExisting(t *testing.T) {
	s := open(t, t.TempDir())
	b := formattest.Tiny(t, "x")
	if _, err := s.Put(t.Context(), kiln.Image{Properties: version("1")}, files(b)); err != nil {
		t.Fatal(err)
	}
	got, err := s.With(PutOptions{KeepExisting: true, MoveAliases: true}).Put(t.Context(),
		kiln.Image{Properties: version("2"), Public: true, Aliases: alias("a")}, files(b))
	if !errors.Is(err, kiln.Conflict) || got.Fingerprint != sumOf(b) || got.Properties["n"] != "1" || got.Public ||
		len(got.Aliases) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
