package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// TestWithoutErofs has a kernel that can't mount EROFS: trees are directories.
func TestWithoutErofs(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.erofs = false
	fp := kiln.Fingerprint{1}
	v, err := p.Clone(t.Context(), "a", fp, func(context.Context) (Content, error) {
		return Content{Unpack: func(_ context.Context, rootfs, meta archive.TreeWriter) error {
			return rootfs.Add(&archive.Entry{Path: "etc/file", Type: archive.Regular, Mode: 0o640, UID: 7, Size: 2},
				strings.NewReader("hi"))
		}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := p.Images(); err != nil || list[0].Kind != kindDir {
		t.Errorf("%+v, %v", list, err)
	}
	f, err := v.Mount(t.Context(), []IDMap{{0, 1_000_000, 65536}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/etc/file", f.Fd())); string(b) != "hi" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestTreeOfAnotherBoot wasn't on the disk yet when the host crashed.
func TestTreeOfAnotherBoot(t *testing.T) {
	dir := t.TempDir()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	fp := kiln.Fingerprint{1}
	content := func(context.Context) (Content, error) {
		return Content{Unpack: func(context.Context, archive.TreeWriter, archive.TreeWriter) error { return nil }}, nil
	}
	if _, err := p.Clone(t.Context(), "a", fp, content); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.imageDir(fp) + "/" + unsynced); err != nil {
		t.Errorf("a new tree has no mark: %v", err)
	}
	if err := p.Settle(fp); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := os.Stat(p.imageDir(fp) + "/" + unsynced); !os.IsNotExist(err) {
		t.Errorf("the mark is still there: %v", err)
	}
	if err := os.WriteFile(p.imageDir(fp)+"/"+unsynced, []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.HasImage(fp) {
		t.Error("it is still trusted")
	}
	if err := p.Settle(fp); err != nil || p.HasImage(fp) {
		t.Errorf("it is settled, %v", err)
	}
	// Who deletes the image that it was made from leaves the volume a tree.
	p.Refill = func(ctx context.Context, _ kiln.Fingerprint) (Content, error) { return content(ctx) }
	if err := p.Detach(t.Context(), fp); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.imageDir(fp) + "/" + unsynced); !os.IsNotExist(err) || !p.HasImage(fp) {
		t.Errorf("what it was made from goes before it is on the disk: %v", err)
	}
}

// TestTakeFile: a file of another file system becomes the tree of an image as well.
func TestTakeFile(t *testing.T) {
	from, other := filepath.Join(t.TempDir(), "file"), t.TempDir()
	if err := unix.Mount("kiln", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(other, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(from, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{from + ".link", filepath.Join(other, "copy")} {
		if err := takeFile(from, to); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(to); string(b) != "bytes" || err != nil {
			t.Errorf("%s: %q, %v", to, b, err)
		}
	}
}
