package db

import (
	"errors"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestRollBack goes back version by version, forward with a new one, and asks each
// time which images the alias stays away from.
func TestRollBack(t *testing.T) {
	d := withImages(t, 5)
	ctx := t.Context()
	fps := make([]kiln.Fingerprint, 5)
	list, err := d.Images(ctx, ImageQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for n, img := range list {
		fps[n] = img.Fingerprint
		for _, a := range img.Aliases {
			if err := d.Tx(ctx, func(tx *Tx) error { return tx.DeleteAlias(ctx, a.Name) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	point := func(n, back int) {
		t.Helper()
		if err := d.Tx(ctx, func(tx *Tx) error {
			if back > 0 {
				if err := tx.RollBack(ctx, "web", back); err != nil {
					return err
				}
			}
			return tx.SetAlias(ctx, kiln.Alias{Name: "web", Target: fps[n]})
		}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(step, want string, current int, away, withdrawn string) {
		t.Helper()
		got, err := d.History(ctx, "web")
		if text := historyText(got, fps); err != nil || text != want {
			t.Errorf("%s: the history is %q, want %q, %v", step, text, want, err)
		}
		from, err := d.RolledBackFrom(ctx, fps[current])
		if err != nil {
			t.Fatal(err)
		}
		standing, err := d.Images(ctx, ImageQuery{Standing: true})
		if err != nil {
			t.Fatal(err)
		}
		text, without := "", ""
		for n, fp := range fps {
			if slices.Contains(from, fp) {
				text += string(rune('0' + n))
			}
			if !slices.ContainsFunc(standing, func(img kiln.Image) bool { return img.Fingerprint == fp }) {
				without += string(rune('0' + n))
			}
		}
		if text != away || without != withdrawn {
			t.Errorf("%s: rolled back from %q, want %q; withdrawn are %q, want %q", step, text, away, without, withdrawn)
		}
	}
	point(0, 0)
	point(1, 0)
	point(2, 0)
	point(2, 0)
	check("published", "2 1 0 ", 2, "", "")
	point(1, 1)
	check("back", "(2)1 0 ", 1, "2", "2")
	point(0, 1)
	check("back twice", "(2)(1)0 ", 0, "12", "12")
	point(3, 0)
	check("forward", "3 (2)(1)0 ", 3, "", "12")
	point(2, 0)
	check("taken up again", "2 3 (2)(1)0 ", 2, "", "1")
	point(0, 2)
	check("two at once", "(2)(3)(2)(1)0 ", 0, "123", "123")
	point(4, 0)
	point(0, 0)
	point(4, 1)
	check("from what it pointed to long before", "(0)4 (2)(3)(2)(1)0 ", 4, "0", "0123")
	if err := d.Tx(ctx, func(tx *Tx) error { // where another alias pointed is nothing to this one
		return errors.Join(tx.SetAlias(ctx, kiln.Alias{Name: "other", Target: fps[1]}),
			tx.SetAlias(ctx, kiln.Alias{Name: "other", Target: fps[4]}))
	}); err != nil {
		t.Fatal(err)
	}
	check("beside another alias", "(0)4 (2)(3)(2)(1)0 ", 4, "0", "0123")
	if from, err := d.RolledBackFrom(ctx, fps[0]); len(from) > 0 || err != nil {
		t.Errorf("an image without an alias was rolled back: %v %v", from, err)
	}
}

// historyText names images by their numbers; those rolled back from are in brackets.
func historyText(list []Version, fps []kiln.Fingerprint) string {
	text := ""
	for _, v := range list {
		for n, fp := range fps {
			switch {
			case fp != v.Fingerprint:
			case v.RolledBackAt.IsZero():
				text += string(rune('0'+n)) + " "
			default:
				text += "(" + string(rune('0'+n)) + ")"
			}
		}
	}
	return text
}
