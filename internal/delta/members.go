package delta

import (
	"cmp"
	"context"
	"slices"
)

// A member is where a tar has one: with its header, up to the next.
type member struct {
	key      uint64 // stands for its name
	off, end int64
}

// maxMembers bounds memory. What comes after them finds its like by position.
const maxMembers = 1 << 20

// members lists what is in the tar of a framed file. Frames that hold nothing but
// a part of a long content are not read.
func members(ctx context.Context, r *frameReader) ([]member, error) {
	var list []member
	var frame []byte
	size, loaded := r.toc.RawSize(), -1
	start := int64(0) // of the member, whose extensions come first
	for off := int64(0); off+block <= size && len(list) < maxMembers; {
		i := r.toc.at(off)
		if i != loaded {
			var err error
			if frame, err = r.raw(frame[:0], i); err != nil {
				return nil, err
			}
			loaded = i
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		at := off - r.toc.Frames[i].RawOffset
		if at+block > int64(len(frame)) { // never in files made here
			off += block
			continue
		}
		h, ok := parseHeader(frame[at : at+block])
		off += block + h.size
		if ok && h.extends {
			continue
		}
		if ok {
			list = append(list, member{h.key, start, min(off, size)})
		}
		start = off
	}
	return list, nil
}

// A matcher finds what a part of the new tar has in common with the base's.
type matcher struct {
	base    map[uint64]member // by name
	size    int64             // of the base's tar
	members []member          // of the new tar, in order
}

const (
	slack     = 128 << 10 // how far contents may have moved within a long member
	joinGap   = 64 << 10  // shorter gaps between segments are taken along
	dictShare = 2         // how many times the unit's length a dictionary may have
)

func newMatcher(base, target []member, size int64) *matcher {
	m := &matcher{base: make(map[uint64]member, len(base)), size: size, members: target}
	for _, b := range base {
		m.base[b.key] = b
	}
	return m
}

// segments gives the stretches of the base's tar that are most like a stretch of
// the new one: the members of the same name, and for names that the base has not
// (a library with its version in the name) what follows there on the member
// before. anchor is where in the base the frame before the stretch ends.
func (m *matcher) segments(from, to, anchor int64) []segment {
	i, _ := slices.BinarySearchFunc(m.members, from, func(x member, off int64) int {
		return cmp.Compare(x.end, off+1)
	})
	limit := max(0, min(dictShare*(to-from)+2*slack, makeWindow-(to-from)))
	var list []segment
	for ; i < len(m.members) && m.members[i].off < to && len(list) < maxSegments; i++ {
		x := m.members[i]
		b, ok := m.base[x.key]
		if !ok {
			b = member{off: anchor, end: min(anchor+x.end-x.off, m.size)}
		}
		anchor = b.end
		s := segment{max(b.off, b.off+from-x.off-slack), min(b.end, b.off+to-x.off+slack)}
		if b.end-b.off <= 2*slack {
			s = segment{b.off, b.end}
		}
		if s.off < s.end {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		list = append(list, segment{max(0, anchor-slack), min(m.size, anchor+to-from+slack)})
	}
	return trim(join(list), limit)
}

// join sorts segments and makes one of those that meet or nearly do.
func join(list []segment) []segment {
	slices.SortFunc(list, func(a, b segment) int { return cmp.Compare(a.off, b.off) })
	joined := list[:1]
	for _, s := range list[1:] {
		if last := &joined[len(joined)-1]; s.off <= last.end+joinGap {
			last.end = max(last.end, s.end)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}

// trim cuts off what is over a limit.
func trim(list []segment, limit int64) []segment {
	for i := range list {
		if n := list[i].end - list[i].off; n >= limit {
			list[i].end = list[i].off + limit
			return list[:i+1]
		} else {
			limit -= n
		}
	}
	return list
}
