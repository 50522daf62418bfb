package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestOpenOdd has something else in the place of a file: whoever opens it doesn't wait for
// anybody, and says what it is.
func TestOpenOdd(t *testing.T) {
	dir := t.TempDir()
	for what, make := range map[string]func(path string) error{
		"a directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"a named pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a device":     func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"a socket":     func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
	} {
		path := filepath.Join(dir, strings.ReplaceAll(what, " ", "-"))
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		for name, open := range map[string]func() error{
			"read":  func() error { _, err := disk.ReadFile(path); return err },
			"write": func() error { _, err := disk.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600); return err },
			"in a directory": func() error {
				root, err := os.OpenRoot(dir)
				if err != nil {
					return err
				}
				defer root.Close()
				_, err = disk.OpenFileIn(root, filepath.Base(path), os.O_WRONLY|os.O_CREATE, 0o600)
				return err
			},
			"both":    func() error { _, err := disk.OpenFile(path, os.O_RDWR, 0); return err },
			"sealed":  func() error { _, err := disk.ReadSealed(path, 1); return err },
			"reserve": func() error { return disk.NewReserve(path, 4<<10).Keep(dir) },
		} {
			err := open()
			var file *fs.PathError
			if !errors.Is(err, kiln.Integrity) || !errors.As(err, &file) || !strings.Contains(err.Error(), what) ||
				file.Path != path {
				t.Errorf("%s, %s: %v", what, name, err)
			}
		}
	}
	unsynced := filepath.Join(dir, "unsynced")
	for _, content := range []string{"one", ""} {
		err := disk.WriteUnsynced(unsynced, 0o644, []byte(content))
		if b, rerr := os.ReadFile(unsynced); err != nil || rerr != nil || string(b) != content {
			t.Errorf("%q, %v, %v", b, err, rerr)
		}
	}
	if err := unix.Mkfifo(unsynced+".new", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteUnsynced(unsynced, 0o644, nil); !errors.Is(err, kiln.Integrity) {
		t.Errorf("a pipe in the place of what isn't whole: %v", err)
	}
	path := filepath.Join(dir, "none")
	if _, err := disk.Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(path, []byte("text"), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	if b, err := disk.ReadFile(link); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestOddDirectory has something else in the place of a directory, and of one on the way.
func TestOddDirectory(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() error{
		"directory": func() error { _, err := disk.OpenDir(pipe); return err },
		"root":      func() error { _, err := disk.OpenRoot(pipe); return err },
		"sync":      func() error { return disk.SyncDir(pipe) },
		"system":    func() error { return disk.SyncSystem(pipe) },
		"below":     func() error { _, err := disk.ReadFile(filepath.Join(pipe, "file")); return err },
	} {
		if err := open(); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := disk.RemoveAll(filepath.Join(pipe, "file")); err != nil {
		t.Error(err)
	}
	if err := disk.RemoveAll(pipe); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(pipe); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	root, err := disk.OpenRoot(filepath.Dir(pipe))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), disk.WriteBytes(filepath.Dir(pipe)+"/file", 0o600, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.ReadFileIn(root, "pipe"); !errors.Is(err, kiln.Integrity) {
		t.Error(err)
	}
	if b, err := disk.ReadFileIn(root, "file"); string(b) != "x" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
