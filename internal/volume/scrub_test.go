package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// TestScrubDirectory has a tree that is a directory: whatever is changed of it is found, and
// nothing is when it was only read. One that an older version made has its digests from then
// on.
func TestScrubDirectory(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.erofs = false
	fp := kiln.Fingerprint{1}
	p.Refill = func(context.Context, kiln.Fingerprint) (Content, error) {
		return Content{Unpack: func(_ context.Context, rootfs, meta archive.TreeWriter) error {
			return errors.Join(
				rootfs.Add(&archive.Entry{Path: "etc", Type: archive.Dir, Mode: 0o755}, nil),
				rootfs.Add(&archive.Entry{Path: "etc/file", Type: archive.Regular, Mode: 0o640, UID: 7, Size: 2},
					strings.NewReader("hi")),
				rootfs.Add(&archive.Entry{Path: "etc/link", Type: archive.Symlink, Link: "file"}, nil),
				rootfs.Add(&archive.Entry{Path: "etc/same", Type: archive.Hardlink, Link: "etc/file"}, nil))
		}}, nil
	}
	if err := errors.Join(p.ensure(t.Context(), fp), p.Settle(fp)); err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(p.imageDir(fp), "rootfs/etc")
	sound := func(when string) {
		t.Helper()
		if damage, err := p.ScrubTree(t.Context(), fp, nil); damage != nil || err != nil {
			t.Fatalf("%s: %v, %v", when, damage, err)
		}
	}
	sound("new")
	if _, err := os.ReadFile(etc + "/file"); err != nil {
		t.Fatal(err)
	}
	sound("read")
	old := time.Unix(1, 1)
	for what, change := range map[string]func() error{
		"a byte":     func() error { return os.WriteFile(etc+"/file", []byte("ho"), 0o640) },
		"more":       func() error { return os.WriteFile(etc+"/new", nil, 0o640) },
		"less":       func() error { return os.Remove(etc + "/link") },
		"a mode":     func() error { return os.Chmod(etc+"/file", 0o644) },
		"an owner":   func() error { return os.Chown(etc+"/file", 7, 7) },
		"a time":     func() error { return os.Chtimes(etc+"/file", old, old) },
		"a target":   func() error { return errors.Join(os.Remove(etc+"/link"), os.Symlink("fils", etc+"/link")) },
		"an xattr":   func() error { return unix.Setxattr(etc+"/file", "user.x", []byte("y"), 0) },
		"a name":     func() error { return os.Rename(etc+"/file", etc+"/fil") },
		"all":        func() error { return os.RemoveAll(filepath.Dir(etc)) },
		"its digest": func() error { return os.WriteFile(filepath.Join(p.imageDir(fp), digestFile), nil, 0o600) },
		"its record": func() error { return os.WriteFile(filepath.Join(p.imageDir(fp), imageFile), nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(what, err)
		}
		if damage, err := p.ScrubTree(t.Context(), fp, nil); !errors.Is(damage, kiln.Integrity) || err != nil {
			t.Errorf("%s: %v, %v", what, damage, err)
		}
		sound("made again after " + what)
	}
	if err := os.Remove(filepath.Join(p.imageDir(fp), digestFile)); err != nil {
		t.Fatal(err)
	}
	sound("of an older version")
	if err := os.WriteFile(etc+"/file", []byte("ho"), 0o640); err != nil {
		t.Fatal(err)
	}
	if damage, err := p.ScrubTree(t.Context(), fp, nil); !errors.Is(damage, kiln.Integrity) || err != nil {
		t.Errorf("changed after its digest was noted: %v, %v", damage, err)
	}
}
