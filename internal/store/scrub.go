package store

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/project"
)

// Files gives the files of all images, in whatever project, each once, by hash.
func (s *Store) Files(ctx context.Context) ([]kiln.File, error) {
	images, err := s.db.Images(project.InAll(ctx), db.ImageQuery{Files: true})
	var list []kiln.File
	for _, img := range images {
		for _, f := range img.Files {
			if !f.Hash.IsZero() { // as damaged rows have it
				list = append(list, f)
			}
		}
	}
	byHash := func(a, b kiln.File) int { return bytes.Compare(a.Hash[:], b.Hash[:]) }
	slices.SortFunc(list, byHash)
	return slices.CompactFunc(list, func(a, b kiln.File) bool { return a.Hash == b.Hash }), err
}

// Having gives the images that have a file, in whatever project.
func (s *Store) Having(ctx context.Context, hash kiln.Fingerprint) ([]kiln.Image, error) {
	return s.List(project.InAll(ctx), Query{File: hash, Files: true})
}

// Everywhere gives an image in each project that has it.
func (s *Store) Everywhere(ctx context.Context, fp kiln.Fingerprint) ([]kiln.Image, error) {
	if fp.IsZero() {
		return nil, nil
	}
	list, err := s.db.Images(project.InAll(ctx), db.ImageQuery{Fingerprint: fp})
	return s.marked(list, false), err
}

// Scrub reads a file again as it is on the disk, at a pace, and notes of all images that have
// it what is wrong, or isn't any more. The error is Integrity when it is lost or damaged.
// Which no image has any more is no error.
func (s *Store) Scrub(ctx context.Context, hash kiln.Fingerprint, pace disk.Pace) error {
	err := s.blobs.Scrub(ctx, hash, pace)
	what := isDamaged
	switch {
	case err == nil:
		s.cameBack(ctx, []kiln.File{{Hash: hash}})
		return nil
	case errors.Is(err, kiln.NotFound):
		what = isMissing
		err = kiln.Errorf(kiln.Integrity, "the file %s is lost", s.blobs.Path(hash))
	case !errors.Is(err, kiln.Integrity):
		return err
	}
	images, lerr := s.Having(ctx, hash)
	if lerr != nil {
		return lerr
	}
	if len(images) == 0 {
		return nil
	}
	if err := s.miss(ctx, hash, what); err != nil {
		return err
	}
	return err
}
