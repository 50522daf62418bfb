package store

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// A lookup is what an image is asked for by.
type lookup struct {
	project string
	prefix  string
	public  bool
}

// recent remembers the images that were looked up since the rows changed last: a
// thousand machines that start the same image ask for the same rows.
type recent struct {
	mu      sync.RWMutex
	version uint64 // of the rows
	images  map[lookup]kiln.Image
}

// mostRecent bounds the memory; an image takes about a kilobyte.
const mostRecent = 1024

func (r *recent) get(l lookup, version uint64) (kiln.Image, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	img, ok := r.images[l]
	if !ok || r.version != version {
		return kiln.Image{}, false
	}
	return clone(img), true
}

// add remembers an image that was read when the rows had at least this version.
func (r *recent) add(l lookup, version uint64, img kiln.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if version < r.version {
		return
	}
	if r.images == nil || version > r.version || len(r.images) >= mostRecent {
		r.images, r.version = map[lookup]kiln.Image{}, version
	}
	r.images[l] = img
}

// clone gives an image that may be changed without changing the other.
func clone(img kiln.Image) kiln.Image {
	img.Properties, img.Own = maps.Clone(img.Properties), maps.Clone(img.Own)
	img.Profiles, img.Files, img.Aliases = slices.Clone(img.Profiles), slices.Clone(img.Files), slices.Clone(img.Aliases)
	if img.Origin != nil {
		o := *img.Origin
		img.Origin = &o
	}
	return img
}

// Version is another number after each change of any row, and of what is missing. What was read since it
// is known is good for as long as it is the version.
func (s *Store) Version() uint64 { return s.db.Version() + s.MissingVersion() }

func (s *Store) byPrefix(ctx context.Context, l lookup) (kiln.Image, error) {
	if !kiln.IsPrefix(l.prefix) {
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "Image not found")
	}
	in, err := project.One(ctx, project.Images)
	if err != nil {
		return kiln.Image{}, err
	}
	l.project = in
	version := s.Version()
	if img, ok := s.recent.get(l, version); ok {
		return img, nil
	}
	list, err := s.db.Images(ctx, db.ImageQuery{Prefix: l.prefix, Public: l.public, Files: true})
	list = s.marked(list, l.public)
	switch {
	case err != nil:
		return kiln.Image{}, err
	case len(list) == 0:
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "Image not found")
	case len(list) > 1:
		var fps []kiln.Fingerprint
		for _, i := range list {
			fps = append(fps, i.Fingerprint)
		}
		return kiln.Image{}, kiln.AmbiguousPrefix(l.prefix, fps)
	}
	s.recent.add(l, version, list[0])
	return clone(list[0]), nil
}
