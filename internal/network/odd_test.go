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
