package blob

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestOdd has something else in the place of a blob: there is none, it is damage to read
// it, and a blob that is written gets its place.
func TestOdd(t *testing.T) {
	content := []byte("content")
	fp := kiln.Fingerprint(sha256.Sum256(content))
	for what, make := range map[string]func(path string) error{
		"a directory":  func(path string) error { return os.MkdirAll(path+"/in/it", 0o700) },
		"a named pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		d, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		place := func() {
			t.Helper()
			if err := errors.Join(os.RemoveAll(d.Path(fp)), os.MkdirAll(filepath.Dir(d.Path(fp)), 0o700),
				make(d.Path(fp))); err != nil {
				t.Fatal(err)
			}
		}
		place()
		if _, err := d.Stat(fp); !errors.Is(err, kiln.NotFound) {
			t.Errorf("%s: stat: %v", what, err)
		}
		if err := d.Verify(t.Context(), fp); !errors.Is(err, kiln.Integrity) {
			t.Errorf("%s: verify: %v", what, err)
		}
		if err := d.List(func(fp kiln.Fingerprint, _ int64) error { return errors.New("listed") }); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		put := func() {
			t.Helper()
			w, err := d.Create(int64(len(content)))
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			_, err = w.Write(content)
			_, cerr := w.Commit(kiln.Fingerprint{})
			if err := errors.Join(err, cerr, d.Verify(t.Context(), fp)); err != nil {
				t.Errorf("%s: put: %v", what, err)
			}
		}
		put()
		if err := d.lose(fp); err != nil {
			t.Fatal(err)
		}
		place()
		if err := errors.Join(d.Find(fp), d.Verify(t.Context(), fp)); err != nil {
			t.Errorf("%s: find: %v", what, err)
		}
		odd := filepath.Join(d.path, "lost", "*"+oddMark+"*")
		list, err := filepath.Glob(odd)
		if err != nil || len(list) != 2 {
			t.Fatalf("%s: %v, %v", what, list, err)
		}
		old := time.Now().Add(-LostTime - time.Hour)
		if err := errors.Join(os.Chtimes(list[0], old, old), d.SweepLost()); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(odd); err != nil || len(left) != 1 || left[0] != list[1] {
			t.Errorf("%s: %v, %v", what, left, err)
		}
	}
}
