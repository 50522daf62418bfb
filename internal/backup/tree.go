package backup

import (
	"errors"
	"io"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// OwnersKey is the option of an instance, or of its snapshot, that says which ids of the host
// its files belong to, as LXD has them on its disk.
const OwnersKey = idmapKey

// ReadTree takes the directory of an instance or of a snapshot as LXD has it on its disk, whose
// entries walk gives, the directory itself before all. owners is what OwnersKey says. snapshot
// is what the files are asked for by; left is as of Read. Errors: Invalid, and those of walk and
// of the trees.
func ReadTree(snapshot, owners string, to Trees, walk func(archive.Found) error) (left int, err error) {
	m, err := parseIDMap(owners)
	if err != nil {
		return 0, err
	}
	in := reader{layout: instanceLayout, newRoot: to.Root, newMeta: to.Meta, plain: true, seen: map[string]bool{},
		index: &contents{owners: map[string]idMap{snapshot: m}}}
	if err := walk(func(e *archive.Entry, r io.Reader) error {
		return in.file(place{snapshot, e.Path}, e, r)
	}); err != nil {
		return 0, errors.Join(err, in.close())
	}
	return in.left, in.leave()
}

// checkLink gives the target of a hard link below the root directory of now.
func (in *reader) checkLink(e *archive.Entry) (string, error) {
	p, ok := in.placeOf(e.Link)
	if in.plain {
		p, ok = place{in.now, e.Link}, true
	}
	rest, inRoot := below(p.rest, in.layout.root)
	if !ok || !inRoot || p.snapshot != in.now {
		return "", kiln.Errorf(kiln.Invalid, "%.100q is a hard link to %.100q, which is elsewhere", e.Path, e.Link)
	}
	return rest, nil
}
