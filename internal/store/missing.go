package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// missing are the images that have a file that isn't there, or isn't as it was. It is
// looked for when the store is opened, and noted whenever somebody comes upon it: no list
// asks for the files of all images.
type missing struct {
	mu      sync.RWMutex
	version uint64                                           // another number after each change
	images  map[kiln.Fingerprint]map[kiln.Fingerprint]string // what is wrong, by image and file
}

// of tells what is wrong with the files of an image; "": nothing that is known.
func (m *missing) of(fp kiln.Fingerprint) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, why := range m.images[fp] {
		return why
	}
	return ""
}

// MissingVersion is another number after files of images were found missing or came back.
func (s *Store) MissingVersion() uint64 {
	s.missing.mu.RLock()
	defer s.missing.mu.RUnlock()
	return s.missing.version
}

// marked tells of each image what is wrong with its files. What is offered to everybody
// leaves those images out.
func (s *Store) marked(list []kiln.Image, public bool) []kiln.Image {
	for n := range list {
		list[n].Missing = s.missing.of(list[n].Fingerprint)
	}
	if public {
		list = slices.DeleteFunc(list, func(img kiln.Image) bool { return img.Missing != "" })
	}
	return list
}

// miss notes that a file is not there, or not as it was: of every image that has it.
func (s *Store) miss(ctx context.Context, hash kiln.Fingerprint, what string) error {
	images, err := s.db.Images(project.InAll(ctx), db.ImageQuery{File: hash, Files: true})
	if err != nil {
		return err
	}
	noted := map[kiln.Fingerprint]bool{}
	for _, img := range images {
		for _, f := range img.Files {
			if f.Hash == hash && s.note(img.Fingerprint, f, what) {
				noted[img.Fingerprint] = true
			}
		}
	}
	images = slices.DeleteFunc(images, func(img kiln.Image) bool { return !noted[img.Fingerprint] })
	s.tellMissing(images) // in each project that has it
	return nil
}

// tellMissing tells of images of whose files something is known now.
func (s *Store) tellMissing(images []kiln.Image) {
	if len(images) == 0 || s.opts.Missing == nil {
		return
	}
	list := make([]db.Image, 0, len(images))
	for _, img := range images {
		list = append(list, db.Image{Project: img.Project, Fingerprint: img.Fingerprint})
	}
	s.opts.Missing(list)
}

// note remembers what is wrong with a file of an image, and reports whether that is news.
func (s *Store) note(fp kiln.Fingerprint, f kiln.File, what string) bool {
	m := s.missing
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := s.blobs.Stat(f.Hash); err == nil && what == isMissing {
		return false // it came back meanwhile
	}
	why := fmt.Sprintf("its %s file is %s: %s", f.Role, what, s.blobs.Path(f.Hash))
	if m.images[fp][f.Hash] == why {
		return false
	}
	if m.images == nil {
		m.images = map[kiln.Fingerprint]map[kiln.Fingerprint]string{}
	}
	if m.images[fp] == nil {
		m.images[fp] = map[kiln.Fingerprint]string{}
	}
	m.images[fp][f.Hash] = why
	m.version++
	return true
}

// What can be wrong with a file.
const (
	isMissing = "missing"
	isDamaged = "damaged"
)

// cameBack forgets what was wrong with some files, and gives those that something was.
func (s *Store) cameBack(ctx context.Context, files []kiln.File) (mended []kiln.File) {
	m, images := s.missing, map[kiln.Fingerprint]bool{}
	m.mu.Lock()
	for _, f := range files {
		found := false
		for fp, wrong := range m.images {
			if _, ok := wrong[f.Hash]; !ok {
				continue
			}
			found, images[fp] = true, true
			m.version++
			if delete(wrong, f.Hash); len(wrong) == 0 {
				delete(m.images, fp)
			}
		}
		if found {
			mended = append(mended, f)
		}
	}
	m.mu.Unlock()
	for fp := range images {
		list, err := s.db.Images(project.InAll(context.WithoutCancel(ctx)), db.ImageQuery{Fingerprint: fp})
		if err == nil { // else whoever was told that something is wrong looks again some time
			s.tellMissing(list)
		}
	}
	return mended
}

// forget is for an image that is deleted.
func (m *missing) forget(fp kiln.Fingerprint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.images, fp)
}

// findMissing looks which files of images are not among those that are there. One that
// was put away, by a daemon whose database didn't name it, is brought back.
func (s *Store) findMissing(ctx context.Context, here map[kiln.Fingerprint]bool) error {
	images, err := s.db.Images(project.InAll(ctx), db.ImageQuery{Files: true})
	for _, img := range images {
		for _, f := range img.Files {
			if f.Hash.IsZero() || here[f.Hash] {
				continue
			}
			switch ferr := s.blobs.Find(f.Hash); {
			case errors.Is(ferr, kiln.NotFound):
				s.note(img.Fingerprint, f, isMissing)
			case ferr != nil:
				err = errors.Join(err, ferr)
			}
		}
	}
	return err
}
