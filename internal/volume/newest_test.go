package volume

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
	for _, last := range all {
		for _, name := range all {
			at(name, day)
		}
		at("e", now.AddDate(100, 0, 0))
		want := day.Truncate(time.Second)
		if last != "e" {
			want = want.AddDate(0, 1, 0)
			at(last, want)
		}
		c, err := openCursor(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := newest(t.Context(), c, now); !got.Equal(want) || err != nil {
			t.Errorf("%s: %v, want %v, %v", last, got, want, err)
		}
		c.Close()
	}
}
