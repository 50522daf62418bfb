package disk

import (
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"
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

// TestMkdirAllBesideSlowDisk has a disk not answer who made a directory on it. Nobody waits
// for that one elsewhere; who needs the same directory makes sure of its name alone.
func TestMkdirAllBesideSlowDisk(t *testing.T) {
	slow, other := t.TempDir(), t.TempDir()
	stuck, free := make(chan bool), make(chan bool)
	var synced atomic.Int32
	defer Record(func(s Step) {
		if s == (Step{SyncedDir, slow}) && synced.Add(1) == 1 {
			close(stuck)
			<-free
		}
	})()
	made := func(path string) chan error {
		c := make(chan error, 1)
		go func() { c <- MkdirAll(path, 0o700) }()
		return c
	}
	within := func(what string, c chan error) {
		t.Helper()
		select {
		case err := <-c:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s waits for a disk that doesn't answer", what)
		}
	}
	first := made(filepath.Join(slow, "a", "b"))
	<-stuck
	within("a directory elsewhere", made(filepath.Join(other, "a")))
	within("one that is there", made(other))
	within("one below that which is being made", made(filepath.Join(slow, "a", "c")))
	if n := synced.Load(); n != 2 {
		t.Errorf("the name of a directory that is being made was synced %d times before it was relied upon", n-1)
	}
	close(free)
	within("the first", first)
	if err := MkdirAll(filepath.Join(slow, "a", "b"), 0o700); err != nil || synced.Load() != 2 {
		t.Errorf("%v; what is on the disk is synced again", err)
	}
	if len(making.dirs) != 0 {
		t.Errorf("still being made: %v", making.dirs)
	}
}

func TestGlob(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a-z] *?{x}")
	for _, p := range []string{"one/file", "two/file", "two/other"} {
		if err := WriteBytes(filepath.Join(dir, p), 0o600, nil); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Glob(dir, "*/fil?")
	if want := []string{filepath.Join(dir, "one/file"), filepath.Join(dir, "two/file")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Glob(filepath.Join(dir, "none"), "*"); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}
