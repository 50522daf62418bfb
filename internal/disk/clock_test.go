package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLongAgo(t *testing.T) {
	now, while := time.Now(), 24*time.Hour
	for at, want := range map[time.Time][2]bool{
		now: {}, now.Add(-while / 2): {}, now.Add(while): {}, now.Add(-while - time.Minute): {true, false},
		time.Unix(0, 0): {false, true}, time.Unix(5, 0): {false, true}, {}: {false, true},
	} {
		if long, unknown := LongAgo(at, while); [2]bool{long, unknown} != want {
			t.Errorf("%v: %v, %v", at, long, unknown)
		}
	}
}

// TestStale has a file of when the clock wasn't set: its while begins when it is looked at.
func TestStale(t *testing.T) {
	path, while := filepath.Join(t.TempDir(), "f"), 24*time.Hour
	if stale, err := Stale(path, while); stale || err != nil {
		t.Errorf("what isn't there: %v, %v", stale, err)
	}
	for _, at := range []time.Time{time.Now().Add(-while - time.Minute), time.Unix(5, 0)} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
		stale, err := Stale(path, while)
		if stale != ClockSet(at) || err != nil {
			t.Errorf("%v: %v, %v", at, stale, err)
		}
	}
	if fi, err := os.Lstat(path); err != nil || !ClockSet(fi.ModTime()) {
		t.Errorf("it never gets stale: %v, %v", fi.ModTime(), err)
	}
}
