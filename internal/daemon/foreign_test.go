package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestForeignFiles: what kiln didn't make stays where it is, also where one of its
// directories is a link to another place, or has got files of others.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}
	open := func() error {
		d, err := Open(t.Context(), cfg)
		if err == nil {
			err = d.Close()
		}
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-1000 * time.Hour)
	victim := func() string {
		v := t.TempDir()
		for _, name := range []string{"passwd", "ssl/private/key", ".new-theirs.conf/x", "old-letters.txt"} {
			path := filepath.Join(v, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("theirs"), 0o600),
				os.Chtimes(path, long, long)); err != nil {
				t.Fatal(err)
			}
		}
		return v
	}
	count := func(v string) (n int) {
		_ = filepath.WalkDir(v, func(_ string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				n++
			}
			return nil
		})
		return n
	}
	// A whole part of kiln's may be elsewhere. What is in it and isn't kiln's stays.
	for _, sub := range []string{"boxes", "patches"} {
		v := victim()
		path := filepath.Join(dir, sub)
		if err := errors.Join(os.RemoveAll(path), os.Symlink(v, path)); err != nil {
			t.Fatal(err)
		}
		if err := open(); err != nil || count(v) != 4 {
			t.Errorf("%s: %v, and %d of 4 files of others are left", sub, err, count(v))
		}
	}
	for _, sub := range []string{"boxes/project", "volumes/tmp/x", "blobs/tmp"} {
		path := filepath.Join(dir, sub)
		if err := errors.Join(os.MkdirAll(path, 0o700), os.WriteFile(path+"/theirs", nil, 0o600), open()); err != nil {
			t.Fatal(err)
		}
		if count(path) != 1 {
			t.Errorf("what somebody has put into %s is gone", sub)
		}
	}
	// Where whatever is unknown is put away or removed, a link is refused.
	for _, sub := range []string{"blobs/tmp", "blobs/partial", "blobs/lost", "blobs/sha256", "volumes/tmp", "volumes/lost",
		"volumes/volumes", "volumes/snapshots", "volumes/layers", "volumes/images", "volumes/notes"} {
		v := victim()
		path := filepath.Join(dir, sub)
		if err := errors.Join(os.RemoveAll(path), os.Symlink(v, path)); err != nil {
			t.Fatal(err)
		}
		if err := open(); !errors.Is(err, kiln.Integrity) || count(v) != 4 {
			t.Errorf("%s: %v, and %d of 4 files of others are left", sub, err, count(v))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(); err != nil {
		t.Error(err)
	}
}
