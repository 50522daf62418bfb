package store

import (
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestRecent makes sure that who has looked an image up sees every change of it
// at once, and can't change what others see.
func TestRecent(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	img, err := s.Put(ctx, kiln.Image{Properties: map[string]string{"n": "0"}}, files(formattest.Unified(t)))
	if err != nil {
		t.Fatal(err)
	}
	fp, word := img.Fingerprint, img.Fingerprint.String()[:12]
	find := func() kiln.Image {
		t.Helper()
		got, err := s.ByPrefix(ctx, word)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	find().Properties["n"] = "not stored"
	mine := find()
	mine.Properties["n"], mine.Files[0].Name = "not stored either", "other"
	if got := find(); got.Properties["n"] != "0" || got.Files[0].Name == "other" {
		t.Errorf("somebody's copy is everybody's: %+v", got)
	}
	if _, err := s.PublicByPrefix(ctx, word); !errors.Is(err, kiln.NotFound) {
		t.Errorf("a private image is public: %v", err)
	}
	now := time.Now().UTC()
	for name, c := range map[string]struct {
		change func() error
		seen   func(kiln.Image) bool
	}{
		"public": {func() error { return s.Update(ctx, fp, func(i *kiln.Image) error { i.Public = true; return nil }) },
			func(i kiln.Image) bool { return i.Public }},
		"alias": {func() error { return s.CreateAlias(ctx, kiln.Alias{Name: "a", Target: fp}) },
			func(i kiln.Image) bool { return len(i.Aliases) == 1 }},
		"used": {func() error { return s.Touch(ctx, fp, now) }, func(i kiln.Image) bool { return i.LastUsedAt.Equal(now) }},
	} {
		if c.seen(find()) {
			t.Errorf("%s: seen before it was", name)
		}
		if err := c.change(); err != nil || !c.seen(find()) {
			t.Errorf("%s: %v, then %+v", name, err, find())
		}
	}
	if _, err := s.PublicByPrefix(ctx, word); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, fp); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PublicByPrefix(ctx, word); !errors.Is(err, kiln.NotFound) {
		t.Errorf("a deleted image is there: %v", err)
	}
}

// TestRecentAtOnce has many look up what one changes: nobody sees what was before
// a change that was done.
func TestRecentAtOnce(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	img, err := s.Put(ctx, kiln.Image{Properties: map[string]string{"n": "0"}}, files(formattest.Unified(t)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.RWMutex
	done := 0 // the last change that is
	end := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				mu.RLock()
				least := done
				mu.RUnlock()
				got, err := s.ByPrefix(ctx, img.Fingerprint.String())
				n, _ := strconv.Atoi(got.Properties["n"])
				if err != nil || n < least {
					t.Errorf("saw %d after %d was done: %v", n, least, err)
					return
				}
			}
		})
	}
	for n := range 50 {
		if err := s.Update(ctx, img.Fingerprint,
			func(i *kiln.Image) error { i.Properties["n"] = strconv.Itoa(n); return nil }); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		done = n
		mu.Unlock()
	}
	close(end)
	wg.Wait()
}

// TestRecentIsBounded fills it with the prefixes of one image.
func TestRecentIsBounded(t *testing.T) {
	r := &recent{}
	for i := range 3 * mostRecent {
		r.add(lookup{prefix: strconv.Itoa(i), public: true}, 1, kiln.Image{Profiles: []string{"default"}})
	}
	if len(r.images) > mostRecent {
		t.Errorf("%d images are remembered", len(r.images))
	}
	last := lookup{prefix: strconv.Itoa(3*mostRecent - 1), public: true}
	if img, ok := r.get(last, 1); !ok || !slices.Equal(img.Profiles, []string{"default"}) {
		t.Error("the last is forgotten")
	}
	r.add(last, 0, kiln.Image{})
	if _, ok := r.get(last, 2); ok {
		t.Error("what was read before a change is taken for new")
	}
	if img, _ := r.get(last, 1); img.Profiles == nil {
		t.Error("what was read before a change took the place of what was read after it")
	}
}
