package archive_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// File capabilities of each revision (cap_net_raw), and an ACL with a user.
const (
	capabilities1 = "\x01\x00\x00\x01\x00\x20\x00\x00\x00\x00\x00\x00"
	capabilities  = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	capabilities3 = "\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00"

	aclOwner = "\x01\x00\x06\x00\xff\xff\xff\xff"
	aclUser  = "\x02\x00\x04\x00\xe8\x03\x00\x00"
	aclGroup = "\x04\x00\x04\x00\xff\xff\xff\xff"
	aclMask  = "\x10\x00\x04\x00\xff\xff\xff\xff"
	aclOther = "\x20\x00\x04\x00\xff\xff\xff\xff"
	acl      = "\x02\x00\x00\x00" + aclOwner + aclUser + aclGroup + aclMask + aclOther
)

// TestXattrsOfTheKernel has attributes that the kernel reads itself: what it wouldn't give
// out again isn't taken, and the file is named.
func TestXattrsOfTheKernel(t *testing.T) {
	take := func(name, value string) (got string, err error) {
		pax := map[string]string{"SCHILY.xattr." + name: value}
		err = archive.Walk(t.Context(), bytes.NewReader(makeTar(t, file{name: "usr/bin/ping", pax: pax})), archive.Limits{},
			func(e *archive.Entry, _ io.Reader) error {
				got = e.Xattrs[name]
				return nil
			})
		return got, err
	}
	const version = "\x02\x00\x00\x00"
	for _, c := range []struct{ name, value, want string }{
		{"security.capability", capabilities1, capabilities},
		{"security.capability", capabilities, capabilities},
		{"security.capability", capabilities3, capabilities3},
		{"system.posix_acl_access", acl, acl},
		{"system.posix_acl_default", version + aclOwner + aclGroup + aclOther, version + aclOwner + aclGroup + aclOther},
		{"user.any", "v", "v"},
	} {
		if got, err := take(c.name, c.value); got != c.want || err != nil {
			t.Errorf("%s %q becomes %q, %v", c.name, c.value, got, err)
		}
	}
	for _, c := range []struct{ name, value string }{
		{"security.capability", "v"},
		{"security.capability", capabilities[:19]},
		{"security.capability", capabilities + "\x00"},
		{"security.capability", capabilities[:12]},
		{"security.capability", capabilities3[:20]},
		{"security.capability", strings.Replace(capabilities, "\x02", "\x04", 1)},
		{"security.capability", capabilities3[:20] + "\xff\xff\xff\xff"},
		{"system.posix_acl_access", "v"},
		{"system.posix_acl_access", version},
		{"system.posix_acl_access", acl[:len(acl)-1]},
		{"system.posix_acl_access", "\x03" + acl[1:]},
		{"system.posix_acl_access", version + aclOwner + aclUser + aclGroup + aclOther},
		{"system.posix_acl_access", version + aclGroup + aclOwner + aclOther},
		{"system.posix_acl_access", acl + aclOther},
		{"system.posix_acl_access", strings.Replace(acl, "\xe8\x03\x00\x00", "\xff\xff\xff\xff", 1)},
		{"system.posix_acl_default", version + aclOwner + aclGroup + "\x40\x00\x04\x00\xff\xff\xff\xff"},
		{"system.posix_acl_default", version + aclOwner + aclGroup + "\x20\x00\x08\x00\xff\xff\xff\xff"},
	} {
		_, err := take(c.name, c.value)
		if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), "usr/bin/ping") ||
			!strings.Contains(err.Error(), c.name) {
			t.Errorf("%s %q: %v", c.name, c.value, err)
		}
	}
}
