package db

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

func checkImage(t *testing.T, n int, got kiln.Image) {
	t.Helper()
	if diff := cmp.Diff(testImage(n), got); diff != "" {
		t.Errorf("image %d: %s", n, diff)
	}
}

// withImages is a database with some images.
func withImages(t *testing.T, count int) *DB {
	t.Helper()
	d := open(t, filepath.Join(t.TempDir(), "db"))
	err := d.Tx(t.Context(), func(tx *Tx) (err error) {
		for n := range count {
			err = errors.Join(err, createImage(t.Context(), tx, n))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestImageIsKeptWhole(t *testing.T) {
	d := withImages(t, 3)
	list, err := d.Images(t.Context(), ImageQuery{Files: true})
	if err != nil || len(list) != 3 {
		t.Fatalf("%d images, %v", len(list), err)
	}
	for n, i := range list {
		checkImage(t, n, i)
	}
	// A transaction sees the same, and that it can't add one twice, which
	// doesn't end it.
	err = d.Tx(t.Context(), func(tx *Tx) error {
		list, err := tx.Images(t.Context(), ImageQuery{Fingerprint: testImage(1).Fingerprint, Files: true})
		if err != nil || len(list) != 1 {
			t.Fatalf("%d images, %v", len(list), err)
		}
		checkImage(t, 1, list[0])
		if err := tx.CreateImage(t.Context(), list[0]); !errors.Is(err, kiln.Conflict) {
			t.Errorf("twice: %v", err)
		}
		return createImage(t.Context(), tx, 3)
	})
	if err != nil {
		t.Error(err)
	}
	// The zero image has no times, and nothing is nil that was not.
	none := kiln.Image{Project: "default", Fingerprint: kiln.Fingerprint{9}}
	if err := d.Tx(t.Context(), func(tx *Tx) error { return tx.CreateImage(t.Context(), none) }); err != nil {
		t.Fatal(err)
	}
	none.Properties, none.Own, none.Profiles = map[string]string{}, map[string]string{}, []string{}
	if list, err := d.Images(t.Context(), ImageQuery{Prefix: "09"}); err != nil ||
		cmp.Diff([]kiln.Image{none}, list) != "" {
		t.Errorf("%s, %v", cmp.Diff([]kiln.Image{none}, list), err)
	}
}

func TestUpdateImage(t *testing.T) {
	d := withImages(t, 2)
	want := testImage(1)
	err := d.Tx(t.Context(), func(tx *Tx) error {
		want.Public, want.AutoUpdate, want.Cached = true, false, false
		want.ExpiresAt, want.Properties, want.Profiles = time.Time{}, map[string]string{"os": "NixOS"}, []string{}
		fixed := want
		fixed.Type, fixed.Architecture, fixed.Size, fixed.Filename = "x", "y", 1, "z"
		fixed.CreatedAt, fixed.UploadedAt = time.Time{}, time.Time{}
		return tx.UpdateImage(t.Context(), fixed)
	})
	if err != nil {
		t.Fatal(err)
	}
	want.LastUsedAt = time.Unix(5, 7).UTC()
	if err := d.Tx(t.Context(),
		func(tx *Tx) error { return tx.TouchImage(t.Context(), want.Fingerprint, want.LastUsedAt) }); err != nil {
		t.Fatal(err)
	}
	for property, n := range map[string]int{"nixos": 1, "debian": 1} {
		list, err := d.Images(t.Context(), ImageQuery{Properties: map[string]string{"os": property}, Files: true})
		if err != nil || len(list) != n {
			t.Fatalf("%s: %d images, %v", property, len(list), err)
		}
		if property == "nixos" && cmp.Diff(want, list[0]) != "" {
			t.Error(cmp.Diff(want, list[0]))
		}
	}
	none := kiln.Fingerprint{0xee}
	for what, f := range map[string]func(*Tx) error{
		"update": func(tx *Tx) error { return tx.UpdateImage(t.Context(), kiln.Image{Fingerprint: none}) },
		"touch":  func(tx *Tx) error { return tx.TouchImage(t.Context(), none, time.Now()) },
		"delete": func(tx *Tx) error { return tx.DeleteImage(t.Context(), none) },
	} {
		if err := d.Tx(t.Context(), f); !errors.Is(err, kiln.NotFound) {
			t.Errorf("%s of what isn't there: %v", what, err)
		}
	}
}

func TestBlobs(t *testing.T) {
	d := withImages(t, 2)
	shared := kiln.Fingerprint{2}
	want := map[kiln.Fingerprint]int{shared: 2, {1, 0}: 1, {1, 1}: 1}
	if got, err := d.Blobs(t.Context()); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%s, %v", cmp.Diff(want, got), err)
	}
	if err := d.Tx(t.Context(), func(tx *Tx) error {
		return tx.DeleteImage(t.Context(), testImage(0).Fingerprint)
	}); err != nil {
		t.Fatal(err)
	}
	want = map[kiln.Fingerprint]int{shared: 1, {1, 1}: 1}
	if got, err := d.Blobs(t.Context()); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("after a deletion: %s, %v", cmp.Diff(want, got), err)
	}
}

func TestAliases(t *testing.T) {
	d := withImages(t, 2)
	zero, one := testImage(0).Fingerprint, testImage(1).Fingerprint
	do := func(f func(context.Context, *Tx) error) error {
		return d.Tx(t.Context(), func(tx *Tx) error { return f(t.Context(), tx) })
	}
	set := func(a kiln.Alias) error {
		return do(func(ctx context.Context, tx *Tx) error { return tx.SetAlias(ctx, a) })
	}
	rename := func(from, to string) error {
		return do(func(ctx context.Context, tx *Tx) error { return tx.RenameAlias(ctx, from, to) })
	}
	remove := func(name string) error {
		return do(func(ctx context.Context, tx *Tx) error { return tx.DeleteAlias(ctx, name) })
	}
	for what, c := range map[string]struct {
		err  error
		kind kiln.Kind
	}{
		"taken":          {rename("0/a", "1/a"), kiln.Conflict},
		"rename nothing": {rename("none", "x"), kiln.NotFound},
		"delete nothing": {remove("none"), kiln.NotFound},
		"of nothing":     {set(kiln.Alias{Name: "0/a", Target: kiln.Fingerprint{0xee}}), kiln.NotFound},
		"other case":     {remove("0/A"), kiln.NotFound},
	} {
		if !errors.Is(c.err, c.kind) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	if err := errors.Join(rename("0/a", "0/a"), rename("0/a", "z"), remove("0/b"),
		set(kiln.Alias{Name: "1/a", Description: "moved", Target: zero})); err != nil {
		t.Error(err)
	}
	want := []kiln.Alias{{Name: "1/a", Description: "moved", Target: zero}, {Name: "1/b", Target: one},
		{Name: "z", Description: "it's", Target: zero}}
	if got, err := d.Aliases(t.Context()); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%s, %v", cmp.Diff(want, got), err)
	}
	if got, err := d.Alias(t.Context(), "z"); err != nil || got != want[2] {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := d.Alias(t.Context(), "0/a"); !errors.Is(err, kiln.NotFound) {
		t.Error(err)
	}
}

// TestOneMoment reads while images come and go: one that is seen is whole.
func TestOneMoment(t *testing.T) {
	d := withImages(t, 1)
	fp := testImage(1).Fingerprint
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				list, err := d.Images(t.Context(), ImageQuery{Files: true})
				if err != nil {
					t.Error(err)
					return
				}
				for _, i := range list {
					if len(i.Files) != 2 || len(i.Aliases) != 2 {
						t.Errorf("half an image: %d files, %d aliases", len(i.Files), len(i.Aliases))
						return
					}
				}
			}
		})
	}
	for range 100 {
		if err := d.Tx(t.Context(), func(tx *Tx) error { return createImage(t.Context(), tx, 1) }); err != nil {
			t.Fatal(err)
		}
		if err := d.Tx(t.Context(), func(tx *Tx) error { return tx.DeleteImage(t.Context(), fp) }); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestPlans looks at how the database answers: what is asked for one image may
// not read all of them.
func TestPlans(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	for what, q := range map[string]ImageQuery{
		"fingerprint": {Fingerprint: kiln.Fingerprint{1}},
		"prefix":      {Prefix: "ab", Public: true},
		"properties":  {Properties: map[string]string{"os": "debian", "release": "12"}},
	} {
		where, args, err := q.where(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{
			`SELECT id FROM images` + where,
			`SELECT name FROM image_aliases WHERE image_id IN (SELECT id FROM images` + where + `)`,
			`SELECT hash FROM image_files WHERE image_id IN (SELECT id FROM images` + where + `)`,
		} {
			err := each(t.Context(), d.read, `EXPLAIN QUERY PLAN `+query, args, func(rows *sql.Rows) error {
				var id, parent, unused int
				var detail string
				err := rows.Scan(&id, &parent, &unused, &detail)
				if strings.HasPrefix(detail, "SCAN image") {
					t.Errorf("%s: %s: %s", what, query, detail)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}
