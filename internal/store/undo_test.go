package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// ending calls a function when its last file was read.
type ending struct {
	*memory
	end func()
}

func (e *ending) Next() (kiln.File, error) {
	if len(e.rest) == 0 {
		e.end()
	}
	return e.memory.Next()
}

// TestFailedPutKeeps has the rows of imports fail: the file that they wrote goes, unless it
// was there before, in its place or put away.
func TestFailedPutKeeps(t *testing.T) {
	s := open(t, t.TempDir())
	other := put(t, s, "other", kiln.Image{})
	image := formattest.Tiny(t, "x")
	fp := sumOf(image)
	fail := func() {
		t.Helper()
		_, err := s.Put(t.Context(), kiln.Image{Aliases: alias("taken")}, &ending{files(image), func() {
			if err := s.CreateAlias(t.Context(), kiln.Alias{Name: "taken", Target: other}); err != nil {
				t.Fatal(err)
			}
		}})
		if !errors.Is(err, kiln.Conflict) {
			t.Fatal(err)
		}
		if err := s.DeleteAlias(t.Context(), "taken"); err != nil {
			t.Fatal(err)
		}
	}
	fail()
	if _, err := s.blobs.Stat(fp); !errors.Is(err, kiln.NotFound) {
		t.Errorf("the file of an import that failed is left: %v", err)
	}
	path := s.blobs.Path(fp)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, image, 0o400)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		fail()
		if err := s.blobs.Verify(t.Context(), fp); err != nil {
			t.Errorf("the file was there before: %v", err)
		}
		if lost, err := s.blobs.Sweep(func(x kiln.Fingerprint) bool { return x != fp }); err != nil || len(lost) != 1 {
			t.Fatal(lost, err)
		}
	}
}

// TestMendForNobody: a file that is mended while its images are deleted doesn't stay.
func TestMendForNobody(t *testing.T) {
	s := open(t, t.TempDir())
	b := formattest.Tiny(t, "")
	img, err := s.Put(t.Context(), kiln.Image{}, files(b))
	if err != nil {
		t.Fatal(err)
	}
	f := img.Files[0]
	for _, deleted := range []bool{false, true} {
		if deleted {
			if err := s.Delete(t.Context(), img.Fingerprint); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Mend(t.Context(), f, files(b)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.blobs.Stat(f.Hash); (err != nil) != deleted {
			t.Errorf("deleted %v: %v", deleted, err)
		}
	}
}

// TestNoteOfWhatCameBack: a file that is there again when it is noted isn't missing; one that is
// damaged is noted though it is there.
func TestNoteOfWhatCameBack(t *testing.T) {
	s := open(t, t.TempDir())
	img, err := s.Put(t.Context(), kiln.Image{}, files(formattest.Tiny(t, "")))
	if err != nil {
		t.Fatal(err)
	}
	if s.note(img.Fingerprint, img.Files[0], isMissing) || get(t, s, img.Fingerprint).Missing != "" {
		t.Error("it is noted as missing")
	}
	if !s.note(img.Fingerprint, img.Files[0], isDamaged) || get(t, s, img.Fingerprint).Missing == "" {
		t.Error("it isn't noted as damaged")
	}
}
