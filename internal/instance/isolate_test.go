package instance

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

func TestFreeRange(t *testing.T) {
	host := box.IDMap{Host: 1_000_000, Size: 5 * fewestIDs}
	at := func(n, size uint32) box.IDMap {
		return box.IDMap{Host: 1_000_000 + n*fewestIDs, Size: size * fewestIDs}
	}
	for name, c := range map[string]struct {
		has        box.IDMap
		taken      []box.IDMap
		base, size uint32
		want       box.IDMap
		kind       kiln.Kind
	}{
		"the first":        {want: at(1, 1)},
		"between":          {taken: []box.IDMap{at(3, 1), at(1, 1)}, want: at(2, 1)},
		"what it had":      {has: at(4, 1), taken: []box.IDMap{at(1, 1)}, want: at(4, 1)},
		"of another size":  {has: at(4, 1), size: 2 * fewestIDs, want: at(1, 2)},
		"a gap too small":  {taken: []box.IDMap{at(2, 1)}, size: 2 * fewestIDs, want: at(3, 2)},
		"asked for":        {base: 1_000_000 + 3*fewestIDs, want: at(3, 1)},
		"none left":        {taken: []box.IDMap{at(1, 4)}, kind: kiln.Conflict},
		"the host's":       {base: 1_000, kind: kiln.Invalid},
		"of all others":    {base: 1_000_000, kind: kiln.Invalid},
		"beyond":           {base: 1_000_000 + 4*fewestIDs + 1, kind: kiln.Invalid},
		"asked for by two": {base: 1_000_000 + 3*fewestIDs, taken: []box.IDMap{at(2, 2)}, kind: kiln.Conflict},
	} {
		got, err := freeRange(host, c.has, c.taken, c.base, c.size)
		if c.kind != "" && !errors.Is(err, c.kind) || c.kind == "" && (err != nil || got != c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestAssignIDs keeps the ids of isolated instances apart, also of those of other
// projects with the same name, and those that each has.
func TestAssignIDs(t *testing.T) {
	s, d, p := set(t)
	if err := d.CreateProject(t.Context(), db.Project{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateInstance(project.In(t.Context(), project.New("other", nil)), db.Instance{Name: "a",
		Type: "container", Config: map[string]string{UUIDKey: "uuid-other-a", idSizeKey: fmt.Sprint(fewestIDs),
			idBaseKey: fmt.Sprint(s.ids[0].Host + fewestIDs)}}); err != nil {
		t.Fatal(err)
	}
	isolated := Config{Options: map[string]string{"security.idmap.isolated": "true"}}
	create(t, s, p, "a", isolated)
	create(t, s, p, "b", isolated)
	create(t, s, p, "c", Config{})
	first := map[string]uint32{}
	for range 2 {
		for _, name := range []string{"a", "b", "c"} {
			i, err := s.Get(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if i, err = s.assignIDs(t.Context(), i); err != nil {
				t.Fatal(err)
			}
			ids := s.idsOf(i)
			if was, ok := first[name]; ok && was != ids[0].Host {
				t.Errorf("%s has other ids: %v", name, ids)
			}
			first[name] = ids[0].Host
		}
	}
	if first["a"] == first["b"] || first["a"] < s.ids[0].Host+2*fewestIDs || first["c"] != s.ids[0].Host {
		t.Errorf("%v", first)
	}
}

// TestAssignIDsAtOnce has several isolated instances start at the same time.
func TestAssignIDsAtOnce(t *testing.T) {
	s, _, p := set(t)
	var wg sync.WaitGroup
	const many = 8
	got := make(chan uint32, many)
	var all []Instance
	for n := range many {
		name := fmt.Sprint("c", n)
		create(t, s, p, name, Config{Options: map[string]string{"security.idmap.isolated": "true"}})
		i, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, i)
	}
	for _, i := range all {
		wg.Go(func() {
			if i, err := s.assignIDs(t.Context(), i); err != nil {
				t.Error(err)
			} else {
				got <- s.idsOf(i)[0].Host
			}
		})
	}
	wg.Wait()
	close(got)
	seen := map[uint32]bool{}
	for id := range got {
		if seen[id] {
			t.Errorf("two have the ids from %d on", id)
		}
		seen[id] = true
	}
}

// TestAssignIDsInProjects keeps them apart from those of another project's instance of the
// same name.
func TestAssignIDsInProjects(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "a", Config{Options: map[string]string{"security.idmap.isolated": "true"}})
	first := s.ids[0].Host + fewestIDs
	if err := errors.Join(d.CreateProject(t.Context(), db.Project{Name: "p"}),
		d.CreateInstance(project.In(t.Context(), project.New("p", nil)), db.Instance{Name: "a", Config: map[string]string{
			UUIDKey: "other", idBaseKey: fmt.Sprint(first), idSizeKey: fmt.Sprint(fewestIDs)}})); err != nil {
		t.Fatal(err)
	}
	i, err := s.Get(t.Context(), "a")
	if err == nil {
		i, err = s.assignIDs(t.Context(), i)
	}
	if ids := s.idsOf(i); err != nil || ids[0].Host < first+fewestIDs {
		t.Errorf("%+v, %v; another one has %d ids from %d on", ids, err, fewestIDs, first)
	}
}
