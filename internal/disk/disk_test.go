package disk

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
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
