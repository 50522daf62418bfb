package archive

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNewest(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	at := func(name string, when time.Time) {
		t.Helper()
		spec := unix.NsecToTimespec(when.UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{spec, spec},
			unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"a/b/c", "d", "e"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "a/b/c/f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "d/link")); err != nil {
		t.Fatal(err)
	}
	day := time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)
	all := []string{"a/b/c/f", "d/link", "a/b/c", "a/b", "a", "d", "e", "."}
	for _, newest := range all {
		for _, name := range all {
			at(name, day)
		}
		at("e", now.AddDate(100, 0, 0))
		want := day.Truncate(time.Second)
		if newest != "e" {
			want = want.AddDate(0, 1, 0)
			at(newest, want)
		}
		root, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Newest(t.Context(), root, now); !got.Equal(want) || err != nil {
			t.Errorf("%s: %v, want %v, %v", newest, got, want, err)
		}
		root.Close()
	}
}

// TestNewestDeep has one more level than a process may have files, and a path longer
// than the kernel takes.
func TestNewestDeep(t *testing.T) {
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const depth = 3000
	dir, err := openIn(root, ".", unix.O_DIRECTORY)
	for range depth {
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkdirat(int(dir.Fd()), "d", 0o755); err != nil {
			t.Fatal(err)
		}
		dir, err = step(dir, "d")
	}
	if err != nil {
		t.Fatal(err)
	}
	if at, err := Newest(t.Context(), root, time.Now().Add(time.Second)); at.IsZero() || err != nil {
		t.Errorf("%v, %v", at, err)
	}
	for range depth { // os.RemoveAll goes down by paths
		if dir, err = step(dir, ".."); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unlinkat(int(dir.Fd()), "d", unix.AT_REMOVEDIR); err != nil {
			t.Fatal(err)
		}
	}
	dir.Close()
}
