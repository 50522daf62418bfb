package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRewrite writes a record on a file system that is full: over what it was, if it fits,
// and else it is what it was.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("kiln", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "record")
	check := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || strings.TrimRight(string(b), " ") != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	}
	if err := Rewrite(path, 0o600, []byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	longer := `{"a":"` + strings.Repeat("b", spare) + `"}`
	for _, record := range []string{longer, `{}`, longer} {
		if err := Rewrite(path, 0o600, []byte(record)); err != nil {
			t.Error(err)
		}
		check(record)
	}
	if err := Rewrite(path, 0o600, make([]byte, 5000)); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	check(longer)
	if _, err := os.Stat(path + ".new"); err == nil {
		t.Error("a file is left")
	}
}
