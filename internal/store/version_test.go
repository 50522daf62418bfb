package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

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

		// One that still has another name is no version that may go.
		three := put(t, s, "named", kiln.Image{Properties: version("3")})
		if err := s.CreateAlias(ctx, kiln.Alias{Name: "stays", Target: three}); err != nil {
			t.Fatal(err)
		}
		if err := move(s, kiln.Alias{Name: "named", Target: two}); err != nil {
			t.Fatal(way, err)
		}
		if img := get(t, s, three); !img.ReplacedBy.IsZero() {
			t.Errorf("%s: an image with a name was replaced by %s", way, img.ReplacedBy.Short())
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
	// The version that loses its only alias leaves the updates to the one before.
	if _, to, err := s.RollBack(ctx, "web", 1); err != nil || to.Fingerprint != one {
		t.Fatal(to, err)
	}
	if was, now := get(t, s, four.Fingerprint), get(t, s, one); was.AutoUpdate || was.ReplacedBy != one ||
		!now.AutoUpdate || !now.ReplacedBy.IsZero() {
		t.Errorf("%+v, %+v", was, now)
	}
	if four, err = s.With(PutOptions{Replaces: one}).Put(ctx, kiln.Image{}, files(formattest.Tiny(t, "5"))); err != nil {
		t.Fatal(err)
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

// TestVersionsModel moves, deletes, renames and rolls back two aliases at random, and
// compares what every version of them means with lists in memory.
func TestVersionsModel(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	var images []kiln.Fingerprint
	for n := range 4 {
		img, err := s.Put(ctx, kiln.Image{}, files(formattest.Tiny(t, fmt.Sprint(n))))
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img.Fingerprint)
	}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++ // each has aliases of its own
		one, other := fmt.Sprint("a", round), fmt.Sprint("b", round)
		names := map[string]*modelAlias{one: {}, other: {}}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			name := rapid.SampledFrom([]string{one, other}).Draw(rt, "name")
			m := names[name]
			var err error
			ok := true
			switch rapid.SampledFrom([]string{"move", "move", "roll back", "delete", "rename"}).Draw(rt, "what") {
			case "move":
				fp := rapid.SampledFrom(images).Draw(rt, "to")
				err = s.Apply(ctx, fp, kiln.Image{Aliases: alias(name)}, true)
				if m.point(fp) && !get(t, s, fp).ReplacedBy.IsZero() {
					rt.Fatalf("%s moved to %s, which is an older version", name, fp.Short())
				}
			case "roll back":
				n := rapid.IntRange(0, 3).Draw(rt, "versions")
				_, _, err = s.RollBack(ctx, name, n)
				ok = m.rollBack(n)
			case "delete":
				err, ok, m.there = s.DeleteAlias(ctx, name), m.there, false
			case "rename":
				to := map[string]string{one: other, other: one}[name]
				err, ok = s.RenameAlias(ctx, name, to), m.there && !names[to].there
				if ok {
					names[to], names[name] = m, &modelAlias{}
				}
			}
			if (err == nil) != ok {
				rt.Fatalf("%v, want success: %v", err, ok)
			}
			for name, m := range names {
				m.check(rt, s, name)
			}
		}
	})
}

// modelAlias is what an alias should be.
type modelAlias struct {
	there    bool
	versions []kiln.Fingerprint // that it wasn't rolled back from, newest first
	left     []kiln.Fingerprint // that it was rolled back from since the newest
}

// point reports whether the alias moved from another image.
func (m *modelAlias) point(fp kiln.Fingerprint) bool {
	m.there = true
	if len(m.versions) > 0 && m.versions[0] == fp {
		return false
	}
	m.versions, m.left = append([]kiln.Fingerprint{fp}, m.versions...), nil
	return len(m.versions) > 1
}

func (m *modelAlias) rollBack(n int) bool {
	if !m.there || n < 1 || n >= len(m.versions) {
		return false
	}
	m.left, m.versions = append(m.left, m.versions[:n]...), m.versions[n:]
	return true
}

func (m *modelAlias) check(rt *rapid.T, s *Store, name string) {
	ctx := context.Background()
	if !m.there {
		for _, word := range []string{name, name + "@0", name + "@1"} {
			if _, err := s.Alias(ctx, word); !errors.Is(err, kiln.NotFound) {
				rt.Fatalf("%s: %v", word, err)
			}
		}
		return
	}
	for n, want := range m.versions {
		a, err := s.Alias(ctx, fmt.Sprintf("%s@%d", name, n))
		if a.Target != want || err != nil {
			rt.Fatalf("%s@%d: %v, %v", name, n, a, err)
		}
	}
	if a, err := s.Alias(ctx, name); a.Target != m.versions[0] || err != nil {
		rt.Fatalf("%s: %v, %v", name, a, err)
	}
	if _, err := s.Alias(ctx, fmt.Sprintf("%s@%d", name, len(m.versions))); !errors.Is(err, kiln.NotFound) {
		rt.Fatalf("%s has one version more: %v", name, err)
	}
	left, err := s.RolledBackFrom(ctx, m.versions[0])
	for _, fp := range m.left {
		if !slices.Contains(left, fp) || err != nil {
			rt.Fatalf("%s was rolled back from %s: %v, %v", name, fp, left, err)
		}
	}
}
