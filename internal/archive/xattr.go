package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// xattrPrefix is what GNU tar and others put before the name of an extended
// attribute in a PAX header.
const xattrPrefix = "SCHILY.xattr."

// MaxXattrs bounds the extended attributes of a file, in bytes: names and values, with
// 4 for each and 12 for all. It is what fits beside an inode in one block of erofs.
const MaxXattrs = 4032

// keptXattrs gives the extended attributes that a system may bring along: those
// of users, file capabilities and ACLs. Attributes that steer overlayfs or a
// security module of the host are dropped; those that the kernel wouldn't take are
// errors.
func keptXattrs(pax map[string]string) (map[string]string, error) {
	var kept map[string]string
	for key, value := range pax {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !keepXattr(name) || len(value) > 65536 {
			continue
		}
		value, err := soundXattr(name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = value
	}
	return kept, nil
}

func keepXattr(name string) bool {
	switch name {
	case capabilityXattr, accessXattr, defaultXattr:
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") && len(name) <= 255
}

// The extended attributes that the kernel itself reads, instead of just keeping them:
// values that it doesn't understand can't be read back, nor copied.
const (
	capabilityXattr = "security.capability"
	accessXattr     = "system.posix_acl_access"
	defaultXattr    = "system.posix_acl_default"
)

// soundXattr checks the value of an attribute that is kept, and gives it as the kernel
// takes it.
func soundXattr(name, value string) (string, error) {
	switch name {
	case capabilityXattr:
		return soundCapability(value)
	case accessXattr, defaultXattr:
		return value, checkACL(value)
	}
	return value, nil
}

// Revisions of file capabilities, in the highest byte of the first number: struct
// vfs_cap_data in the kernel's include/uapi/linux/capability.h.
const (
	capRevisionMask = 0xff000000
	capRevision1    = 0x01000000
	capRevision2    = 0x02000000
	capRevision3    = 0x03000000 // has the user id of a namespace's root at its end
)

// soundCapability checks file capabilities. Those of the first revision, with 32 of them,
// become the same of the second: the kernel doesn't give the first out any more.
func soundCapability(value string) (string, error) {
	if len(value) < 4 {
		return "", fmt.Errorf("%d bytes are too short for file capabilities", len(value))
	}
	magic := binary.LittleEndian.Uint32([]byte(value))
	switch revision := magic & capRevisionMask; {
	case revision == capRevision1 && len(value) == 12:
		b := binary.LittleEndian.AppendUint32(nil, magic&^capRevisionMask|capRevision2)
		b = append(b, value[4:]...)
		return string(append(b, make([]byte, 8)...)), nil
	case revision == capRevision2 && len(value) == 20:
		return value, nil
	case revision == capRevision3 && len(value) == 24:
		if root := binary.LittleEndian.Uint32([]byte(value[20:])); root >= noID {
			return "", fmt.Errorf("the file capabilities are for the user id %d, which is out of range", root)
		}
		return value, nil
	default:
		return "", fmt.Errorf("%d bytes with the revision %#x are no file capabilities (12 bytes have 0x1, 20 have 0x2, "+
			"24 have 0x3)", len(value), revision>>24)
	}
}

// Tags of the entries of a POSIX ACL, of which each has 2 bytes of tag, 2 of permissions
// and 4 of id, after 4 of version: the kernel's include/uapi/linux/posix_acl_xattr.h.
const (
	aclVersion  = 2
	aclEntry    = 8
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

var errNoACL = errors.New("it is no POSIX ACL of version 2")

// checkACL checks an ACL as the kernel does: owner, users, owning group, groups, mask and
// others in this order, and a mask if there are users or groups.
func checkACL(value string) error {
	if len(value) < 4 || (len(value)-4)%aclEntry != 0 || binary.LittleEndian.Uint32([]byte(value)) != aclVersion {
		return errNoACL
	}
	seen, last := 0, 0
	for b := []byte(value[4:]); len(b) > 0; b = b[aclEntry:] {
		tag, perm := int(binary.LittleEndian.Uint16(b)), binary.LittleEndian.Uint16(b[2:])
		id := binary.LittleEndian.Uint32(b[4:])
		named := tag == aclUser || tag == aclGroup
		switch {
		case perm > 7:
			return fmt.Errorf("the ACL has the permissions %#o", perm)
		case tag != aclUserObj && tag != aclGroupObj && tag != aclMask && tag != aclOther && !named:
			return fmt.Errorf("the ACL has an entry of the unknown type %#x", tag)
		case tag < last || tag == last && !named:
			return errors.New("the entries of the ACL are not in order, or come twice")
		case named && id >= noID:
			return fmt.Errorf("the ACL has the id %d, which is out of range", id)
		}
		seen, last = seen|tag, tag
	}
	const needed = aclUserObj | aclGroupObj | aclOther
	if seen&needed != needed || seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return errors.New("the ACL lacks the entry of the owner, the owning group, the others, or the mask")
	}
	return nil
}
