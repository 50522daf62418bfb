package daemon

import (
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// create makes an instance of an image, and doesn't start it.
func create(t *testing.T, d *Daemon, name string, fp kiln.Fingerprint) {
	t.Helper()
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "image", Fingerprint: fp.String()}})
	wait(t, o, err)
}

// TestPruneLeavesBases makes instances of cached images, before somebody prunes and
// while: their images stay, until the instances go.
func TestPruneLeavesBases(t *testing.T) {
	d := fresh(t)
	one, two := cached(t, d, "1"), cached(t, d, "2")
	create(t, d, "c1", one)
	list, err := d.PruneImages(t.Context(), true, true)
	if err != nil || len(list) != 1 || list[0].Image.Fingerprint != two {
		t.Fatalf("with --dry-run: %v, %v", list, err)
	}
	create(t, d, "c2", two) // after somebody has seen that the image isn't used
	if gone, err := d.prune(t.Context(), two, true); gone || err != nil {
		t.Errorf("deleted %v, %v", gone, err)
	}
	if list, err := d.PruneImages(t.Context(), true, false); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for _, fp := range []kiln.Fingerprint{one, two} {
		if has, err := d.Images.Has(t.Context(), fp); !has || err != nil {
			t.Errorf("%s: has %v, %v", fp.Short(), has, err)
		}
	}
	o, err := d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
	if list, err := d.PruneImages(t.Context(), true, false); err != nil || len(list) != 1 ||
		list[0].Image.Fingerprint != one {
		t.Errorf("%v, %v", list, err)
	}
}

// TestHeldImagesStay has an instance being made of an image that is over for each reason
// there is: it expired, and it is an older version of which none is kept.
func TestHeldImagesStay(t *testing.T) {
	d := fresh(t)
	old, now := cached(t, d, "old"), cached(t, d, "now")
	last := time.Now().AddDate(-1, 0, 0)
	if err := errors.Join(d.Images.Touch(t.Context(), old, last), d.Images.Touch(t.Context(), now, last)); err != nil {
		t.Fatal(err)
	}
	if err := d.Images.Replace(t.Context(), old, now); err != nil {
		t.Fatal(err)
	}
	release := d.making.hold(old, now)
	has := func(want bool, fps ...kiln.Fingerprint) {
		t.Helper()
		for _, fp := range fps {
			if has, err := d.Images.Has(t.Context(), fp); has != want || err != nil {
				t.Errorf("%s: has %v, %v", fp.Short(), has, err)
			}
		}
	}
	d.expire()
	has(true, old, now)
	if err := d.dropVersionsBut(t.Context(), now, 0); err != nil {
		t.Error(err)
	}
	has(true, old, now)
	release()
	// Nor does one go that has a name, or is of the newest few.
	name := kiln.Alias{Name: "named", Target: old}
	if err := errors.Join(d.CreateAlias(t.Context(), name), d.dropVersionsBut(t.Context(), now, 0)); err != nil {
		t.Error(err)
	}
	has(true, old)
	if err := errors.Join(d.Images.DeleteAlias(t.Context(), name.Name),
		d.dropVersionsBut(t.Context(), now, 1)); err != nil {
		t.Error(err)
	}
	has(true, old)
	if err := d.dropVersionsBut(t.Context(), now, 0); err != nil {
		t.Error(err)
	}
	has(false, old)
	has(true, now)
	err := d.CreateProject(t.Context(), db.Project{Name: "web"})
	web, werr := d.In(t.Context(), "web")
	if err := errors.Join(err, werr); err != nil {
		t.Fatal(err)
	}
	theirs := formattest.Tiny(t, "theirs")
	wait(t, d.ImportImage(web, ImportSpec{Cached: true}, streamOf(t, theirs)), nil)
	if err := d.Images.Touch(web, sha256.Sum256(theirs), last); err != nil {
		t.Fatal(err)
	}
	d.expire()
	has(false, now)
	if has, err := d.Images.Has(web, sha256.Sum256(theirs)); has || err != nil {
		t.Errorf("the image of another project is there: %v, %v", has, err)
	}
}

// TestPruneWithDamagedBase: of an instance that doesn't say any more of which image it was
// made, the volume does. If that can't be told either, it may be each of them.
func TestPruneWithDamagedBase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	defer func() { end(t, d) }()
	fp, other := cached(t, d, "1"), cached(t, d, "2")
	create(t, d, "c1", fp)
	prune := func(want ...kiln.Fingerprint) {
		t.Helper()
		list, err := d.PruneImages(t.Context(), true, true)
		if err != nil {
			t.Error(err)
		}
		var got []kiln.Fingerprint
		for _, p := range list {
			got = append(got, p.Image.Fingerprint)
		}
		if !slices.Equal(got, want) {
			t.Errorf("pruned: %v, want %v", got, want)
		}
		if gone, err := d.prune(t.Context(), fp, true); gone || err != nil {
			t.Errorf("deleted %v, %v", gone, err)
		}
	}
	for _, c := range []struct {
		damage string
		want   []kiln.Fingerprint
	}{
		{`base = ` + noHash, []kiln.Fingerprint{other}},
		{`config = ` + noJSON, nil},
	} {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		execute(t, dir, `UPDATE instances SET `+c.damage)
		d = open(t, dir)
		prune(c.want...)
	}
	o, err := d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
	if list, err := d.PruneImages(t.Context(), true, false); len(list) != 2 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}
