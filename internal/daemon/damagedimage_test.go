package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
)

// TestImageWithoutFiles has an image, in two projects, whose file is lost, or damaged: each is
// listed so, with a warning until the file is back, and instances are made of its tree
// with a word, and of nothing else.
func TestImageWithoutFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	defer func() { end(t, d) }()
	ctx := t.Context()
	if err := d.CreateProject(ctx, db.Project{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	web, err := d.In(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	content := formattest.Unified(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, content), nil)
	img, err := d.Images.Find(ctx, "bb")
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string) (warning string, err error) {
		t.Helper()
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "image", Alias: "bb"}})
		if err != nil {
			t.Fatal(err)
		}
		s := o.Wait(ctx)
		warning, _ = s.Metadata["warning"].(string)
		return warning, s.Err
	}
	if w, err := create("sound"); w != "" || err != nil {
		t.Errorf("of a sound image: %q, %v", w, err)
	}
	if _, err := d.Images.Put(web, kiln.Image{}, streamOf(t, content)); err != nil {
		t.Fatal(err)
	}
	blob := d.blobs.Path(img.Files[0].Hash)
	is := func(when, status, what string) {
		t.Helper()
		list, err := d.Images.List(project.InAll(ctx), store.Query{})
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		for _, i := range list {
			if !strings.Contains(i.Missing, what) || (i.Missing == "") != (what == "") {
				t.Errorf("%s: in %s: %q", when, i.Project, i.Missing)
			}
			warnings, err := d.Warnings(ctx, i.Project)
			if err != nil || len(warnings) != 1 || warnings[0].Type != imageDamaged || warnings[0].Status != status ||
				!strings.Contains(warnings[0].Message, what) || warnings[0].Severity == "" {
				t.Errorf("%s: in %s: %+v, %v", when, i.Project, warnings, err)
			}
		}
	}
	again := func(change func() error) {
		t.Helper()
		if err := errors.Join(d.Close(), change()); err != nil {
			t.Fatal(err)
		}
		d = open(t, dir)
		d.findDamagedImages() // as it does beside its start
	}

	again(func() error { return os.Remove(blob) })
	is("at the start", db.WarningNew, "missing")
	w, err := create("fromtree")
	if err != nil || !strings.Contains(w, "is missing") || !strings.Contains(w, "import or copy the image again") {
		t.Errorf("of the tree: %q, %v", w, err)
	}
	wait(t, d.DeleteImage(web, img.Fingerprint), nil)
	if list, err := d.Warnings(ctx, "web"); err != nil || len(list) != 0 {
		t.Errorf("it was deleted: %+v, %v", list, err)
	}
	if _, err := d.Images.Put(web, kiln.Image{}, streamOf(t, content)); err != nil {
		t.Fatal(err)
	}
	if _, err := create("mended"); err != nil {
		t.Error(err)
	}
	list, err := d.Warnings(ctx, project.Default)
	if err != nil || len(list) != 1 || list[0].Status != db.WarningResolved {
		t.Errorf("it came back: %+v, %v", list, err)
	}

	bad := append([]byte("x"), content[1:]...)
	if err := errors.Join(os.Remove(blob), os.WriteFile(blob, bad, 0o400)); err != nil {
		t.Fatal(err)
	}
	if s := d.VerifyImage(ctx, img.Fingerprint).Wait(ctx); !errors.Is(s.Err, kiln.Integrity) {
		t.Errorf("verified: %v", s.Err)
	}
	is("verified", db.WarningNew, "damaged")
	if has, err := d.Images.Has(ctx, img.Fingerprint); has || err != nil {
		t.Errorf("a damaged image is had: %v, %v", has, err)
	}
	again(func() error { return nil })
	is("at the next start", db.WarningNew, "damaged")
	again(func() error { return os.RemoveAll(filepath.Join(dir, "volumes/images", img.Fingerprint.String())) })
	if _, err := create("fromnothing"); !errors.Is(err, kiln.Integrity) ||
		!strings.Contains(err.Error(), "copy or import the image again") {
		t.Errorf("without a tree: %v", err)
	}
	again(func() error { return errors.Join(os.Remove(blob), os.WriteFile(blob, content, 0o400)) })
	is("brought back", db.WarningResolved, "")
	if w, err := create("whole"); w != "" || err != nil {
		t.Errorf("of a whole image: %q, %v", w, err)
	}
}
