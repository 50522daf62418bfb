package blob

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestNew writes a blob that isn't there, that is, and that was put away: of these two it
// doesn't say that they are new, and no second copy of the last stays.
func TestNew(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write := func(want bool) kiln.Fingerprint {
		t.Helper()
		w, err := d.Create(-1)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		_, err = w.Write([]byte("content"))
		if w.New() {
			t.Error("it is new before Commit")
		}
		fp, cerr := w.Commit(kiln.Fingerprint{})
		if err := errors.Join(err, cerr); err != nil || w.New() != want {
			t.Errorf("new %v, %v", w.New(), err)
		}
		return fp
	}
	fp := write(true)
	write(false)
	if lost, err := d.Sweep(func(kiln.Fingerprint) bool { return false }); err != nil || len(lost) != 1 {
		t.Fatal(lost, err)
	}
	write(false)
	if lost, err := d.Lost(); err != nil || len(lost) != 0 {
		t.Errorf("the copy that was put away is left: %v, %v", lost, err)
	}
	if _, err := d.Stat(fp); err != nil {
		t.Error(err)
	}
}

// TestFindOrder brings a blob back whose directory is gone: the name of that is on the
// disk, too, when Find returns.
func TestFindOrder(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fp, err := d.Put(strings.NewReader("content"), sha256.Sum256([]byte("content")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sweep(func(kiln.Fingerprint) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Dir(d.Path(fp))); err != nil {
		t.Fatal(err)
	}
	var steps []disk.Step
	defer disk.Record(func(s disk.Step) { steps = append(steps, s) })()
	if err := d.Find(fp); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(steps, disk.Step{Kind: disk.SyncedDir, Path: filepath.Join(d.path, "sha256")}) {
		t.Errorf("%v", steps)
	}
}

// TestFindBesideAnother finds a blob that was put away and brought again since: the whole
// one of the two is there in the end.
func TestFindBesideAnother(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ lost, there string }{{"broken", "content"}, {"content", "broken"}} {
		fp := kiln.Fingerprint(sha256.Sum256([]byte("content")))
		for path, text := range map[string]string{filepath.Join(d.path, "lost", fp.String()): c.lost, d.Path(fp): c.there} {
			if err := disk.WriteBytes(path, 0o600, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(d.Find(fp), d.Verify(t.Context(), fp)); err != nil {
			t.Errorf("%s was put away: %v", c.lost, err)
		}
	}
}
