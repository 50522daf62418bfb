package disk

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	for _, text := range []string{"one", "two"} {
		if err := WriteBytes(path, 0o640, []byte(text)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		fi, serr := os.Stat(path)
		if err != nil || serr != nil || string(b) != text || fi.Mode().Perm() != 0o640 {
			t.Errorf("%q, %v, %v", b, fi.Mode(), err)
		}
	}
	failed := errors.New("no")
	err := Write(path, 0o640, func(w io.Writer) error {
		io.WriteString(w, "half")
		return failed
	})
	if b, _ := os.ReadFile(path); !errors.Is(err, failed) || string(b) != "two" {
		t.Errorf("after a failure: %q, %v", b, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestOrder makes sure that a content is synced before it gets its name, and the name
// before Write returns.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	var steps []Step
	defer Record(func(s Step) { steps = append(steps, s) })()
	if err := WriteBytes(dir+"/f", 0o600, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 3 || steps[0].Kind != SyncedFile || steps[1] != (Step{Renamed, dir + "/f"}) ||
		steps[2] != (Step{SyncedDir, dir}) {
		t.Errorf("%v", steps)
	}
}

// TestRenameUnsynced has a disk that doesn't take names, and a process without a descriptor
// left: who is told of a failure finds all where it was, and may remove what is new.
func TestRenameUnsynced(t *testing.T) {
	for what, fail := range map[string]func() func(){
		"sync": func() func() {
			was := syncNames
			syncNames = func(*os.File) error { return unix.EIO }
			return func() { syncNames = was }
		},
		"descriptors": func() func() {
			var was unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		dir := t.TempDir()
		for _, name := range []string{"old", "new", "other"} {
			if err := os.MkdirAll(filepath.Join(dir, name, "is "+name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		end := fail()
		exchanged := Exchange(filepath.Join(dir, "new"), filepath.Join(dir, "old"))
		renamed := RenameNew(filepath.Join(dir, "other"), filepath.Join(dir, "free"))
		end()
		if exchanged == nil || renamed == nil {
			t.Errorf("%s: %v, %v", what, exchanged, renamed)
		}
		for _, name := range []string{"old", "new", "other"} {
			if _, err := os.Stat(filepath.Join(dir, name, "is "+name)); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

// TestExchangeSyncs: what changes places is on the disk in both directories.
func TestExchangeSyncs(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	if err := errors.Join(os.WriteFile(a+"/f", nil, 0o600), os.WriteFile(b+"/g", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var steps []Step
	defer Record(func(s Step) { steps = append(steps, s) })()
	if err := Exchange(a+"/f", b+"/g"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{a, b} {
		if !slices.Contains(steps, Step{SyncedDir, dir}) {
			t.Errorf("%s isn't synced: %v", dir, steps)
		}
	}
}
