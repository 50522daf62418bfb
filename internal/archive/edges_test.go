package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// TestZerosAreNoEnd has a tar that was cut behind a file of zeros, as many as the end of a
// tar has: that is not its end.
func TestZerosAreNoEnd(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 1024, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := count(t.Context(), bytes.NewReader(b.Bytes()), archive.Limits{}); !errors.Is(err, kiln.Integrity) {
		t.Errorf("without its end: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := count(t.Context(), bytes.NewReader(b.Bytes()), archive.Limits{}); err != nil || n != 1 {
		t.Errorf("with its end: %d, %v", n, err)
	}
}

// TestKeptXattrs has a file with attributes of each kind there is: what steers the host's
// overlayfs or security modules doesn't come along.
func TestKeptXattrs(t *testing.T) {
	all := []string{"user.x", "user.overlayed", "user.overlay.opaque", "user.overlay.redirect", "trusted.overlay.opaque",
		"trusted.x", "security.capability", "security.selinux", "security.ima", "system.posix_acl_access",
		"system.posix_acl_default", "system.x"}
	pax := map[string]string{}
	for _, name := range all {
		pax["SCHILY.xattr."+name] = "v"
	}
	pax["SCHILY.xattr.security.capability"] = capabilities
	pax["SCHILY.xattr.system.posix_acl_access"], pax["SCHILY.xattr.system.posix_acl_default"] = acl, acl
	var got []string
	err := archive.Walk(t.Context(), bytes.NewReader(makeTar(t, file{name: "f", pax: pax})), archive.Limits{},
		func(e *archive.Entry, _ io.Reader) error {
			for name := range e.Xattrs {
				got = append(got, name)
			}
			return nil
		})
	slices.Sort(got)
	want := []string{"security.capability", "system.posix_acl_access", "system.posix_acl_default", "user.overlayed",
		"user.x"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestSquashfsPadding pads a squashfs with zeros: as much as mksquashfs does at most is
// taken, and no more.
func TestSquashfsPadding(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x")
	if out, err := exec.Command("mksquashfs", dir, path, "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	super, err := archive.ParseSuperblock(data, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for pad, kind := range map[int64]kiln.Kind{0: "", 64 << 10: "", 64<<10 + 1: kiln.Invalid, 1 << 20: kiln.Invalid} {
		if err := os.Truncate(path, super.Size); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, super.Size+pad); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := archive.SquashfsTar(t.Context(), f, nil)
		if err == nil {
			_, err = count(t.Context(), r, archive.Limits{})
			err = errors.Join(err, r.Close())
		}
		f.Close()
		if kind == "" && err != nil || kind != "" && kiln.KindOf(err) != kind {
			t.Errorf("%d bytes of padding: %v", pad, err)
		}
	}
}
