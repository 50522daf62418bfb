package disk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestOwnDirs: directories between which files are moved are refused where they can't be,
// with what can be mounted instead; a mount of all of them is none of that.
func TestOwnDirs(t *testing.T) {
	top := filepath.Join(t.TempDir(), "volumes")
	mount := func(from, to, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(from, to, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(to, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Error(err)
			}
		})
	}
	if err := os.Mkdir(top, 0o700); err != nil {
		t.Fatal(err)
	}
	mount("kiln", top, "tmpfs", 0)
	if err := disk.OwnDirs(top, 0o700, "a", "b"); err != nil {
		t.Fatalf("a mount of the whole: %v", err)
	}
	sub, elsewhere := filepath.Join(top, "b"), t.TempDir()
	check := func(what string) {
		t.Helper()
		err := disk.OwnDirs(top, 0o700, "a", "b")
		if !errors.Is(err, kiln.Integrity) {
			t.Fatalf("%s: %v", what, err)
		}
		for _, want := range []string{sub, "the whole of " + top + " or of " + filepath.Dir(top)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: nobody says %q: %v", what, want, err)
			}
		}
	}
	for what, from := range map[string]string{"of the same file system": top + "/a", "of another": elsewhere} {
		mount(from, sub, "", unix.MS_BIND)
		check("a mount " + what)
		if err := unix.Unmount(sub, 0); err != nil {
			t.Fatal(err)
		}
	}
	// A subvolume of btrfs is on the same mount, and yet nothing is moved out of it.
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	top = filepath.Join(t.TempDir(), "btrfs")
	sub = filepath.Join(top, "b")
	t.Cleanup(func() { _ = unix.Unmount(top, unix.MNT_DETACH) })
	for _, argv := range [][]string{{"truncate", "-s", "200M", image}, {"mkfs.btrfs", "-q", image}, {"mkdir", top},
		{"mount", "-o", "loop", image, top}, {"btrfs", "-q", "subvolume", "create", sub}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	check("a subvolume")
	if err := os.Remove(sub); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, sub); err != nil {
		t.Fatal(err)
	}
	check("a symbolic link")
}
