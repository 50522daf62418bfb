package backup

import (
	"encoding/binary"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/foreign"
)

// An idMap says which ids of the host the owners of a tree are: LXD packs the files of an
// instance with the owners that they had on its disk, and says in idmapKey which of the
// instance's those are. Without a range they are the instance's own.
type idMap []idRange

// idRange is a range of users, of groups, or of both, with the names that LXD has for it.
type idRange struct {
	Isuid, Isgid           bool
	Hostid, Nsid, Maprange int64
}

// noID is where ids end that a file can have.
const noID = 1<<32 - 2

// nobody owns what had an owner outside of the map, as it did for the instance.
const nobody = 65534

// maxRanges bounds the ranges of one map, maxAllRanges those of all that differ in a backup.
const (
	maxRanges    = 1000
	maxAllRanges = 100_000
)

// parseIDMap reads a map. The error is Invalid.
func parseIDMap(text string) (idMap, error) {
	if text == "" {
		return nil, nil
	}
	var m idMap
	most := foreign.Limit{Bytes: maxIndex, Objects: maxRanges + 1, Values: 10 * maxRanges}
	if err := foreign.Unmarshal([]byte(text), most, &m); err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "%s isn't a map of ids: %w", idmapKey, err)
	}
	if len(m) > maxRanges {
		return nil, kiln.Errorf(kiln.Invalid, "%s has more than %d ranges", idmapKey, maxRanges)
	}
	for _, r := range m {
		if r.Hostid < 0 || r.Nsid < 0 || r.Maprange < 0 || r.Hostid > noID || r.Nsid > noID || r.Maprange > noID ||
			r.Hostid+r.Maprange > noID || r.Nsid+r.Maprange > noID {
			return nil, kiln.Errorf(kiln.Invalid, "%s has the ids %+v, which can't be", idmapKey, r)
		}
	}
	return m, nil
}

// id gives an id of the instance for one of the host.
func (m idMap) id(host uint32, group bool) uint32 {
	if len(m) == 0 {
		return host
	}
	for _, r := range m {
		if (r.Isgid && group || r.Isuid && !group) && int64(host) >= r.Hostid && int64(host) < r.Hostid+r.Maprange {
			return uint32(int64(host) - r.Hostid + r.Nsid)
		}
	}
	return nobody
}

// The extended attributes with ids in them, and where those are: struct vfs_ns_cap_data
// and posix_acl_xattr_entry of the kernel. Package archive has checked them.
const (
	capability = "security.capability"
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"

	capMask      = 0xff000000
	capRevision2 = 0x02000000 // in 20 bytes; the third, in 24, ends with the id of a root
	aclUser      = 0x02
	aclGroup     = 0x08
)

// apply gives an entry owners as the instance sees them.
func (m idMap) apply(e *archive.Entry) {
	if len(m) == 0 {
		return
	}
	e.UID, e.GID = m.id(e.UID, false), m.id(e.GID, true)
	for name, value := range e.Xattrs {
		switch name {
		case capability:
			e.Xattrs[name] = m.capability([]byte(value))
		case accessACL, defaultACL:
			e.Xattrs[name] = m.acl([]byte(value))
		}
	}
}

// capability gives capabilities that are of the instance's root itself, if they were of
// the id that this was on the host.
func (m idMap) capability(b []byte) string {
	if len(b) != 24 {
		return string(b)
	}
	le := binary.LittleEndian
	root := m.id(le.Uint32(b[20:]), false)
	if root == 0 {
		le.PutUint32(b, le.Uint32(b)&^capMask|capRevision2)
		return string(b[:20])
	}
	le.PutUint32(b[20:], root)
	return string(b)
}

func (m idMap) acl(b []byte) string {
	for at := 4; at+8 <= len(b); at += 8 {
		tag, id := binary.LittleEndian.Uint16(b[at:]), b[at+4:]
		if tag == aclUser || tag == aclGroup {
			binary.LittleEndian.PutUint32(id, m.id(binary.LittleEndian.Uint32(id), tag == aclGroup))
		}
	}
	return string(b)
}
