package instance

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// The options in which an isolated instance keeps its range of the host's ids.
const (
	idBaseKey = "volatile.idmap.base"
	idSizeKey = "volatile.idmap.size"
)

// idsOf are the host's ids that an instance has, or would have if it were started as it is;
// nil: all, as they are.
func (s *Set) idsOf(i Instance) []box.IDMap {
	if kiln.IsTrue(i.ExpandedConfig["security.privileged"]) {
		return nil
	}
	r, ok := idRange(i.Options)
	if !ok || !kiln.IsTrue(i.ExpandedConfig["security.idmap.isolated"]) {
		return s.ids
	}
	return []box.IDMap{r}
}

// idsOfRunning are those that an instance was started with.
func (s *Set) idsOfRunning(i Instance, b *box.Box) []box.IDMap {
	if b.Privileged() {
		return nil
	}
	root := b.RootUID()
	if r, ok := idRange(i.Options); ok && r.Host == root {
		return []box.IDMap{r}
	}
	return s.ids
}

// idRange reads what assignIDs wrote down.
func idRange(options map[string]string) (box.IDMap, bool) {
	base, err1 := strconv.ParseUint(options[idBaseKey], 10, 32)
	size, err2 := strconv.ParseUint(options[idSizeKey], 10, 32)
	return box.IDMap{Host: uint32(base), Size: uint32(size)}, err1 == nil && err2 == nil && size > 0
}

// assignIDs gives an isolated instance that is to start a range of ids that no other has,
// and writes it down. It keeps the one that it had. Errors: Invalid, Conflict when there is
// none left.
func (s *Set) assignIDs(ctx context.Context, i Instance) (Instance, error) {
	c := i.ExpandedConfig
	if !kiln.IsTrue(c["security.idmap.isolated"]) || kiln.IsTrue(c["security.privileged"]) {
		return i, nil
	}
	s.idRanges.Lock()
	defer s.idRanges.Unlock()
	rows, err := s.db.Instances(project.InAll(ctx))
	if err != nil {
		return i, err
	}
	taken := s.strayIDs()
	for _, r := range rows {
		if m, ok := idRange(r.Config); ok && r.Config[UUIDKey] != i.Options[UUIDKey] {
			taken = append(taken, m)
		}
	}
	has, _ := idRange(i.Options)
	r, err := freeRange(s.ids[0], has, taken, uint32(number(c["security.idmap.base"])),
		uint32(number(c["security.idmap.size"])))
	if err != nil || r == has {
		return i, err
	}
	if err := s.edit(ctx, i.Name, func(row *db.Instance) {
		row.Config[idBaseKey], row.Config[idSizeKey] = fmt.Sprint(r.Host), fmt.Sprint(r.Size)
	}); err != nil {
		return i, err
	}
	return s.Get(ctx, i.Name)
}

// freeRange chooses ids of the host's: those that an instance has, if they still will do,
// or asks for by their first, or the first that are free. Those of instances that aren't
// isolated begin with the host's range, and are left to them as far as they are used.
func freeRange(host, has box.IDMap, taken []box.IDMap, base, size uint32) (box.IDMap, error) {
	if size == 0 {
		size = fewestIDs
	}
	end := uint64(host.Host) + uint64(host.Size)
	fits := func(r box.IDMap) bool {
		return uint64(r.Host) >= uint64(host.Host)+fewestIDs && uint64(r.Host)+uint64(r.Size) <= end
	}
	overlaps := func(r box.IDMap) bool {
		return slices.ContainsFunc(taken, func(t box.IDMap) bool {
			return uint64(t.Host) < uint64(r.Host)+uint64(r.Size) && uint64(r.Host) < uint64(t.Host)+uint64(t.Size)
		})
	}
	if base != 0 {
		r := box.IDMap{Host: base, Size: size}
		if !fits(r) {
			return r, kiln.Errorf(kiln.Invalid, "security.idmap.base: the %d ids from %d on aren't all between %d and %d, "+
				"which this host has for isolated instances", size, base, uint64(host.Host)+fewestIDs, end-1)
		}
		if overlaps(r) {
			return r, kiln.Errorf(kiln.Conflict, "security.idmap.base: of the %d ids from %d on, another isolated instance has "+
				"some", size, base)
		}
		return r, nil
	}
	if has.Size == size && fits(has) && !overlaps(has) {
		return has, nil
	}
	slices.SortFunc(taken, func(a, b box.IDMap) int { return int(int64(a.Host) - int64(b.Host)) })
	next := uint64(host.Host) + fewestIDs
	for _, t := range taken {
		if next+uint64(size) <= uint64(t.Host) {
			break
		}
		next = max(next, uint64(t.Host)+uint64(t.Size))
	}
	if next+uint64(size) > end {
		return box.IDMap{}, kiln.Errorf(kiln.Conflict, "there are no %d ids left for an isolated instance; widen root's "+
			"range in /etc/subuid and /etc/subgid", size)
	}
	return box.IDMap{Host: uint32(next), Size: size}, nil
}

// checkIDs accepts how many ids an instance may have.
func checkIDs(v string) error {
	if n, err := strconv.ParseUint(v, 10, 31); err != nil || n < fewestIDs {
		return fmt.Errorf("%q is not a whole number of at least %d, which a system needs", v, fewestIDs)
	}
	return nil
}
