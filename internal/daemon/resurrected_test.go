package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/store"
)

// TestRecoverDeletedImage loses the database after an image was deleted that its newest
// copy has: recovery tells, and the image is shown to its owner as it is, and to nobody
// else, until it is imported again.
func TestRecoverDeletedImage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	for _, seed := range []string{"gone", "kept"} {
		wait(t, importFiles(t, d, ImportSpec{Aliases: aliases(seed), Public: true}, formattest.Tiny(t, seed)), nil)
	}
	img, err := d.Images.Find(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.copyDatabase(t.Context(), time.Now().UTC().Format("20060102T150405")); err != nil {
		t.Fatal(err)
	}
	wait(t, d.DeleteImage(t.Context(), img.Fingerprint), nil)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	want := "image " + img.Fingerprint.Short() + " is in the database, but has no files"
	if remarks := strings.Join(r.Remarks, "\n"); err != nil || strings.Count(remarks, want) != 1 ||
		strings.Count(remarks, "in the database") != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	count := func(public bool) (n, missing int) {
		list, err := d.Images.List(t.Context(), store.Query{Public: public})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if i.Missing != "" {
				missing++
			}
		}
		return len(list), missing
	}
	if n, missing := count(false); n != 2 || missing != 1 {
		t.Errorf("the owner sees %d, %d of them missing", n, missing)
	}
	if n, _ := count(true); n != 1 {
		t.Errorf("others see %d", n)
	}
	if s := importFiles(t, d, ImportSpec{}, formattest.Tiny(t, "gone")).Wait(t.Context()); s.Err == nil {
		t.Error("it was not here")
	}
	if n, missing := count(true); n != 2 || missing != 0 {
		t.Errorf("after an import others see %d, %d of them missing", n, missing)
	}
}
