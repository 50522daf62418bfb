package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// fake makes a file as rsync --fake-super does.
func fake(t *testing.T, path, stat, content string) {
	t.Helper()
	var err error
	if content == "/" {
		err = os.MkdirAll(path, 0o700)
	} else {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err == nil && stat != "" {
		err = unix.Setxattr(path, statXattr, []byte(stat), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func walkFake(t *testing.T, dir string, lim Limits) (string, error) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []string
	err = WalkFakeSuper(t.Context(), f, lim, func(e *Entry, r io.Reader) error {
		content := ""
		if e.Type == Regular {
			b, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			content = string(b)
		}
		list = append(list, fmt.Sprint(e.Path, e.Type, fmt.Sprintf("%o", e.Mode), e.UID, e.GID, e.Major, e.Minor, e.Link,
			content, e.Xattrs))
		return nil
	})
	return strings.Join(list, "\n"), err
}

func TestWalkFakeSuper(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	fake(t, dir, "40750 0,0 1:2", "/")
	fake(t, in("d"), "42755 0,0 0:0", "/")
	fake(t, in("d/f"), "104711 0,0 5:6", "text")
	fake(t, in("d/null"), "20666 1,3 0:0", "")
	fake(t, in("d/socket"), "140600 0,0 0:0", "")
	fake(t, in("plain"), "", "x")
	fake(t, in("symlink"), "120777 0,0 0:0", "/etc/passwd")
	for _, err := range []error{os.Link(in("d/f"), in("link")), os.Chmod(in("plain"), 0o640), os.Chown(in("plain"), 7, 8),
		unix.Setxattr(in("plain"), "user.a", []byte("b"), 0),
		unix.Setxattr(in("plain"), "user.rsync.trusted.overlay.opaque", []byte("y"), 0),
		unix.Setxattr(in("plain"), "user.overlay.opaque", []byte("y"), 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := walkFake(t, dir, Limits{})
	want := strings.Join([]string{". 0 750 1 2 0 0  map[]", "d 0 2755 0 0 0 0  map[]", "d/f 1 4711 5 6 0 0 text map[]",
		"d/null 6 666 0 0 1 3  map[]", "d/socket 5 600 0 0 0 0  map[]", "link 3 4711 5 6 0 0 d/f map[]",
		"plain 1 640 7 8 0 0 x map[user.a:b]", "symlink 2 777 0 0 0 0 /etc/passwd map[]"}, "\n")
	if squeeze(got) != squeeze(want) || err != nil {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := walkFake(t, dir, Limits{Entries: 3}); !errors.Is(err, kiln.TooLarge) {
		t.Error("too many files:", err)
	}
	if _, err := walkFake(t, dir, Limits{Bytes: 3}); !errors.Is(err, kiln.TooLarge) {
		t.Error("too many bytes:", err)
	}
}

// TestTakeFakeSuper makes a tree of the files themselves, with nothing beside them.
func TestTakeFakeSuper(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	fake(t, dir, "40755 0,0 0:0", "/")
	fake(t, filepath.Join(dir, "f"), "104711 0,0 5:6", "text")
	fake(t, filepath.Join(dir, "symlink"), "120777 0,0 0:0", "f")
	for _, err := range []error{os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "g")),
		unix.Setxattr(filepath.Join(dir, "f"), "user.a", []byte("b"), 0),
		unix.Setxattr(filepath.Join(dir, "f"), "user.overlay.opaque", []byte("y"), 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewDirWriter(to, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(TakeFakeSuper(t.Context(), f, Limits{}, w.Add), w.Close()); err != nil {
		t.Fatal(err)
	}
	var was, is, link unix.Stat_t
	if err := errors.Join(unix.Lstat(filepath.Join(dir, "f"), &was), unix.Lstat(filepath.Join(to, "f"), &is),
		unix.Lstat(filepath.Join(to, "g"), &link)); err != nil {
		t.Fatal(err)
	}
	if was.Ino != is.Ino || link.Ino != is.Ino || is.Uid != 5 || is.Gid != 6 || is.Mode != unix.S_IFREG|0o4711 {
		t.Errorf("%+v and %+v, and was %+v", is, link, was)
	}
	if target, err := os.Readlink(filepath.Join(to, "symlink")); target != "f" || err != nil {
		t.Error(target, err)
	}
	buf := make([]byte, 1000)
	n, err := unix.Listxattr(filepath.Join(to, "f"), buf)
	if got := string(buf[:max(n, 0)]); got != "user.a\x00" || err != nil {
		t.Errorf("attributes %q, %v", got, err)
	}
}

// squeeze takes the spaces away, which fmt puts where it likes.
func squeeze(s string) string { return strings.ReplaceAll(s, " ", "") }

// TestWalkFakeHostile has the receiver leave what it never would.
func TestWalkFakeHostile(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"a symlink": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a pipe":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a device":  func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, 0x103) },
		"a file that says it is a directory": func(path string) error {
			fake(t, path, "40755 0,0 0:0", "")
			return nil
		},
		"an owner out of range": func(path string) error {
			fake(t, path, "100644 0,0 4294967295:0", "")
			return nil
		},
		"an owner that is no number": func(path string) error {
			fake(t, path, "100644 0,0 root:0", "")
			return nil
		},
		"no type": func(path string) error {
			fake(t, path, "170644 0,0 0:0", "")
			return nil
		},
		"capabilities that are none": func(path string) error {
			fake(t, path, "100644 0,0 0:0", "")
			return unix.Setxattr(path, "user.rsync.security.capability", []byte("x"), 0)
		},
		"a symlink to nothing": func(path string) error {
			fake(t, path, "120777 0,0 0:0", "")
			return nil
		},
	} {
		dir := t.TempDir()
		if err := make(filepath.Join(dir, "f")); err != nil {
			t.Fatal(err)
		}
		if got, err := walkFake(t, dir, Limits{}); err == nil || !strings.Contains(err.Error(), `"f"`) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

// TestFakeXattrsAreBounded doesn't read what is more than a file may have.
func TestFakeXattrsAreBounded(t *testing.T) {
	dir := t.TempDir()
	fake(t, dir, "40750 0,0 1:2", "/")
	for i := range 3 {
		if err := unix.Setxattr(dir, fmt.Sprintf("user.%d", i), make([]byte, 60), 0); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if all, err := fakeXattrs(f, 180); err != nil || len(all) != 4 {
		t.Errorf("%d attributes, %v", len(all), err)
	}
	if all, err := fakeXattrs(f, 100); err == nil || all != nil {
		t.Errorf("%d attributes of more than 100 bytes, %v", len(all), err)
	}
}

// TestFakeBounds counts names before any of them is handed on, and leaves attributes out that
// users may set anyway.
func TestFakeBounds(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		fake(t, filepath.Join(dir, name), "100644 0,0 0:0", "")
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var seen []string
	err = WalkFakeSuper(t.Context(), f, Limits{Entries: 2}, func(e *Entry, _ io.Reader) error {
		seen = append(seen, e.Path)
		return nil
	})
	if !errors.Is(err, kiln.TooLarge) || len(seen) > 1 {
		t.Errorf("%v, having seen %q", err, seen)
	}
	if pax := paxOf(map[string]string{fakeXattr + "user.a": "x"}); len(pax) > 0 {
		t.Error(pax)
	}
}
