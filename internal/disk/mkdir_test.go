package disk

import (
	"path/filepath"
	"slices"
	"testing"
)

// TestMkdirAll makes sure that the name of each directory that was made on the way to a
// file is on the disk, from the outermost one on, and that nothing is synced for those
// that were there.
func TestMkdirAll(t *testing.T) {
	top := t.TempDir()
	var steps []Step
	defer Record(func(s Step) { steps = append(steps, s) })()
	if err := WriteBytes(filepath.Join(top, "a", "b", "c", "file"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	want := []Step{{SyncedDir, top}, {SyncedDir, filepath.Join(top, "a")}, {SyncedDir, filepath.Join(top, "a", "b")}}
	if len(steps) != 6 || !slices.Equal(steps[:3], want) {
		t.Errorf("%v", steps)
	}
	steps = nil
	if err := MkdirAll(filepath.Join(top, "a", "b", "c")+"/", 0o700); err != nil || len(steps) != 0 {
		t.Errorf("%v, %v", steps, err)
	}
	if err := MkdirAll(filepath.Join(top, "a", "b", "c", "file", "d"), 0o700); err == nil {
		t.Error("a directory is made below a file")
	}
}
