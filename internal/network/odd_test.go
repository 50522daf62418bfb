package network

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOddFiles has named pipes in the place of a network's file and of all of them: what can
// be read is served, and nobody waits.
func TestOddFiles(t *testing.T) {
	d := Directory{Path: filepath.Join(t.TempDir(), "networks")}
	if err := errors.Join(os.Mkdir(d.Path, 0o700), unix.Mkfifo(filepath.Join(d.Path, "a"+networkEx), 0o600),
		os.WriteFile(filepath.Join(d.Path, "b"+networkEx), []byte(`{"Name":"b"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if list := d.Networks(); len(list) != 1 || list[0].Name != "b" {
		t.Errorf("%v", list)
	}
	if err := errors.Join(os.RemoveAll(d.Path), unix.Mkfifo(d.Path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if list := d.Networks(); len(list) != 0 || d.Running() || d.Ensure() == nil {
		t.Errorf("%v", list)
	}
}

// TestOwner loses the files with the mark of a directory, one after the other, and copies it.
func TestOwner(t *testing.T) {
	top := t.TempDir()
	owner := func(dir string) string {
		t.Helper()
		mark, err := Directory{Path: filepath.Join(top, dir, "networks")}.Owner("none of any interface")
		if err != nil {
			t.Fatal(err)
		}
		return mark
	}
	mark := owner("a")
	for _, file := range ownerFiles(filepath.Join(top, "a", "networks")) {
		for what, damage := range map[string]func() error{
			"absent":  func() error { return os.Remove(file) },
			"empty":   func() error { return os.Truncate(file, 0) },
			"another": func() error { return os.WriteFile(file, []byte("what is this\n"), 0o600) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if got := owner("a"); got != mark {
				t.Errorf("%s %s: %s, not %s", file, what, got, mark)
			}
		}
	}
	if err := os.CopyFS(filepath.Join(top, "copy"), os.DirFS(filepath.Join(top, "a"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(top, "copy", "networks", ownerFile)); err != nil {
		t.Fatal(err)
	}
	if got := owner("copy"); got == mark || got != owner("copy") {
		t.Errorf("a copy has the mark %s", got)
	}
	if err := os.Rename(filepath.Join(top, "a"), filepath.Join(top, "moved")); err != nil {
		t.Fatal(err)
	}
	if got := owner("moved"); got != mark {
		t.Errorf("moved: %s, not %s", got, mark)
	}
}
