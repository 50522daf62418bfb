package daemon

import (
	"crypto/sha256"
	"errors"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// cached has an image in the store that nobody asked to keep.
func cached(t *testing.T, d *Daemon, seed string) kiln.Fingerprint {
	t.Helper()
	b := formattest.Tiny(t, seed)
	wait(t, importFiles(t, d, ImportSpec{Cached: true}, b), nil)
	return kiln.Fingerprint(sha256.Sum256(b))
}

// TestPruneKeepsNamed gives cached images names in both ways that there are: whoever
// does that wants to keep them.
func TestPruneKeepsNamed(t *testing.T) {
	d := fresh(t)
	one, two, three := cached(t, d, "1"), cached(t, d, "2"), cached(t, d, "3")
	err := errors.Join(d.CreateAlias(t.Context(), kiln.Alias{Name: "one", Target: one}),
		d.CreateAlias(t.Context(), kiln.Alias{Name: "two", Target: one}),
		d.UpdateAlias(t.Context(), "two", func(a *kiln.Alias) error { a.Target = two; return nil }))
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.PruneImages(t.Context(), false, false)
	if err != nil || len(list) != 1 || list[0].Image.Fingerprint != three {
		t.Errorf("%v, %v", list, err)
	}
	for _, fp := range []kiln.Fingerprint{one, two} {
		img, err := d.Images.Get(t.Context(), fp)
		if err != nil || img.Cached {
			t.Errorf("cached %v, %v", img.Cached, err)
		}
		if end, err := d.expiry(t.Context(), img); err != nil || !end.IsZero() {
			t.Errorf("it expires at %v, %v", end, err)
		}
	}
}

// TestPruneLeavesWhatIsUsed has an instance that is being made of a cached image.
func TestPruneLeavesWhatIsUsed(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "1")
	release := d.making.hold(fp)
	if list, err := d.PruneImages(t.Context(), true, false); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	release()
	if list, err := d.PruneImages(t.Context(), true, false); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestPruneAtOnce has several prune: each image is deleted by one of them, and none
// fails.
func TestPruneAtOnce(t *testing.T) {
	d := fresh(t)
	const images = 30
	for i := range images {
		cached(t, d, string(rune('a'+i)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	gone := 0
	for range 4 {
		wg.Go(func() {
			list, err := d.PruneImages(t.Context(), false, false)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			gone += len(list)
		})
	}
	wg.Wait()
	if gone != images {
		t.Errorf("%d images were deleted", gone)
	}
}
