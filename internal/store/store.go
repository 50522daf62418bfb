// Package store keeps images: blobs for their bytes, rows for what is known of
// them, and aliases that point to them. It is a Source and a Sink. It doesn't
// know instances, nor how images arrive.
package store

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/signing"
)

// Options are what a store is told besides where its bytes and rows are.
type Options struct {
	// Limits bounds what an image may unpack to, asked for at each import. Its Visit is left.
	Limits func(context.Context) (archive.Limits, error)
	// Records is the directory of what is written of each image besides its row; "":
	// nothing is.
	Records string
	// Lost hears of the blobs that Open put away since no row names them.
	Lost func([]kiln.Fingerprint)
	// Missing hears of images of which another thing than before is wrong with the files, or
	// nothing any more. It isn't told of those that Open finds: they are in the list.
	Missing func(images []db.Image)
}

// A Store holds the images of one daemon.
type Store struct {
	blobs *blob.Dir
	db    *db.DB
	opts  Options
	put   PutOptions
	// files is held for writing while blobs are deleted, for reading from the
	// moment a blob appears until its row is there.
	files   *sync.RWMutex
	recent  *recent
	missing *missing
}

// Open makes a store of blobs and rows, puts the blobs away that no row names, and finds
// the rows whose blobs are not there.
func Open(ctx context.Context, blobs *blob.Dir, d *db.DB, opts Options) (*Store, error) {
	s := New(blobs, d, opts)
	used, err := d.Blobs(ctx)
	if err != nil {
		return nil, err
	}
	unknown := used[kiln.Fingerprint{}] > 0 // which blobs damaged rows are of
	here := map[kiln.Fingerprint]bool{}
	lost, err := blobs.Sweep(func(fp kiln.Fingerprint) bool {
		here[fp] = used[fp] > 0
		return used[fp] > 0 || unknown
	})
	if len(lost) > 0 && opts.Lost != nil {
		opts.Lost(lost)
	}
	if err != nil {
		return nil, err
	}
	for fp := range used {
		if !here[fp] && !fp.IsZero() {
			return s, s.findMissing(ctx, here)
		}
	}
	return s, nil
}

// New makes a store of blobs and rows as they are, without a sweep.
func New(blobs *blob.Dir, d *db.DB, opts Options) *Store {
	return &Store{blobs: blobs, db: d, opts: opts, files: &sync.RWMutex{}, recent: &recent{},
		missing: &missing{}}
}

// A Query narrows a list of images down. The zero value is all of them.
type Query struct {
	Public     bool              // only those that everybody may have
	Standing   bool              // only those that no alias was rolled back from, or that have one
	Properties map[string]string // that it has, in whatever case
	Origin     *kiln.Origin      // that came from there
	File       kiln.Fingerprint  // that have a file with this hash
	Files      bool              // fill in Files too
}

// List gives the images of the projects that ctx is about, with their aliases, in the order
// they came.
func (s *Store) List(ctx context.Context, q Query) ([]kiln.Image, error) {
	list, err := s.db.Images(ctx, db.ImageQuery{Public: q.Public, Standing: q.Standing, Properties: q.Properties,
		Origin: q.Origin, File: q.File, Files: q.Files})
	return s.marked(list, q.Public), err
}

// Get gives one image, with its files. The error is NotFound.
func (s *Store) Get(ctx context.Context, fp kiln.Fingerprint) (kiln.Image, error) {
	img, err := imageOf(ctx, s.db, fp, true)
	img.Missing = s.missing.of(img.Fingerprint)
	return img, err
}

// imageOf gives one image of the rows, or of a transaction. The error is NotFound.
func imageOf(ctx context.Context, rows interface {
	Images(context.Context, db.ImageQuery) ([]kiln.Image, error)
}, fp kiln.Fingerprint, files bool) (kiln.Image, error) {
	missing := kiln.Errorf(kiln.NotFound, "Image not found")
	if fp.IsZero() { // as damaged rows have it
		return kiln.Image{}, missing
	}
	list, err := rows.Images(ctx, db.ImageQuery{Fingerprint: fp, Files: files})
	if err == nil && len(list) == 0 {
		err = missing
	}
	if err != nil {
		return kiln.Image{}, err
	}
	return list[0], nil
}

// ByPrefix gives the image whose fingerprint begins with some digits.
// Errors: NotFound, Ambiguous.
func (s *Store) ByPrefix(ctx context.Context, prefix string) (kiln.Image, error) {
	return s.byPrefix(ctx, lookup{prefix: strings.ToLower(prefix)})
}

// PublicByPrefix is ByPrefix among the public images: the others might as well not
// be there, by what it answers and by what it takes.
func (s *Store) PublicByPrefix(ctx context.Context, prefix string) (kiln.Image, error) {
	return s.byPrefix(ctx, lookup{prefix: strings.ToLower(prefix), public: true})
}

// Find gives the image that a name means: an alias, or the beginning of a
// fingerprint. Errors: NotFound (with what looks like it), Ambiguous, Integrity for one
// whose row is damaged.
func (s *Store) Find(ctx context.Context, name string) (kiln.Image, error) {
	img, err := s.find(ctx, name)
	if err == nil {
		err = img.Whole()
	}
	return img, err
}

func (s *Store) find(ctx context.Context, name string) (kiln.Image, error) {
	a, err := s.Alias(ctx, name)
	if err == nil {
		if a.Damage != "" {
			return kiln.Image{}, damagedAlias(a)
		}
		return s.Get(ctx, a.Target)
	}
	if !errors.Is(err, kiln.NotFound) {
		return kiln.Image{}, err
	}
	img, err := s.ByPrefix(ctx, name)
	if !errors.Is(err, kiln.NotFound) {
		return img, err
	}
	aliases, lookup := s.db.Aliases(ctx)
	if lookup != nil {
		return kiln.Image{}, lookup
	}
	var names []string
	for _, a := range aliases {
		names = append(names, a.Name)
	}
	return kiln.Image{}, kiln.NoImage(name, names)
}

// Has reports whether an image is here, with all of its bytes there, as far as that is known
// without reading them.
func (s *Store) Has(ctx context.Context, fp kiln.Fingerprint) (bool, error) {
	img, err := s.Get(ctx, fp)
	if errors.Is(err, kiln.NotFound) {
		return false, nil
	}
	return err == nil && img.Missing == "" && s.whole(img), err
}

// whole reports whether the files of an image are there with their sizes.
func (s *Store) whole(img kiln.Image) bool {
	for _, f := range img.Files {
		if size, err := s.blobs.Stat(f.Hash); err != nil || size != f.Size {
			return false
		}
	}
	return true
}

// Open reads the files of an image. What is read to its end has been compared
// with its hash: the error is Integrity then. The stream has the method Path,
// which names the current file.
func (s *Store) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	if len(img.Files) == 0 {
		var err error
		if img, err = s.Get(ctx, img.Fingerprint); err != nil {
			return nil, err
		}
	}
	if err := img.Whole(); err != nil {
		return nil, err
	}
	return &stream{ctx: ctx, store: s, rest: img.Files}, nil
}

// OpenFile opens one file of an image, unchecked. The error is Integrity when it
// is lost, which is noted.
func (s *Store) OpenFile(ctx context.Context, f kiln.File) (*os.File, error) {
	r, err := s.blobs.Open(f.Hash)
	if errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Integrity) {
		if err := s.miss(context.WithoutCancel(ctx), f.Hash, isMissing); err != nil {
			return nil, err
		}
		what := s.blobs.Path(f.Hash)
		if errors.Is(err, kiln.Integrity) {
			what = err.Error()
		}
		return nil, kiln.Errorf(kiln.Integrity, "a file of the image is lost: %s; copy or import the image again to "+
			"restore it", what)
	}
	return r, err
}

type stream struct {
	ctx   context.Context
	store *Store
	rest  []kiln.File
	now   *checked
}

// Next implements kiln.Stream.
func (s *stream) Next() (kiln.File, error) {
	if err := s.Close(); err != nil {
		return kiln.File{}, err
	}
	if len(s.rest) == 0 {
		return kiln.File{}, io.EOF
	}
	f := s.rest[0]
	s.rest = s.rest[1:]
	r, err := s.store.OpenFile(s.ctx, f)
	if err != nil {
		return f, err
	}
	s.now = newChecked(r, f.Hash)
	return f, nil
}

// Read implements kiln.Stream.
func (s *stream) Read(b []byte) (int, error) {
	if s.now == nil {
		return 0, io.EOF
	}
	return s.now.Read(b)
}

// Path names the current file.
func (s *stream) Path() string { return s.now.f.Name() }

// Close implements kiln.Stream.
func (s *stream) Close() error {
	if s.now == nil {
		return nil
	}
	err := s.now.f.Close()
	s.now = nil
	return err
}

// Update changes what a user may change of an image, in one transaction.
// Properties without a value are dropped. Errors: NotFound; Integrity for a damaged row, for
// files that are missing or damaged, and for what is no signature of the image; those of
// change.
func (s *Store) Update(ctx context.Context, fp kiln.Fingerprint, change func(*kiln.Image) error) error {
	return s.db.Tx(ctx, func(tx *db.Tx) error {
		img, err := whole(ctx, tx, fp)
		if err != nil {
			return err
		}
		img.Missing = s.missing.of(fp)
		if err := img.Present(); err != nil { // clients send back what they were shown in its place
			return err
		}
		before := maps.Clone(img.Properties)
		if err := change(&img); err != nil {
			return err
		}
		if err := errors.Join(checkProperties(img.Properties), checkSignature(img.Signature, fp)); err != nil {
			return err
		}
		img.Fingerprint = fp
		dropEmpty(img.Properties)
		noteOwn(&img, before)
		return tx.UpdateImage(ctx, img)
	})
}

// checkProperties refuses a property without a name. The error is Invalid.
func checkProperties(m map[string]string) error {
	if _, there := m[""]; there {
		return kiln.Errorf(kiln.Invalid, "a property has no name: it is written key=value")
	}
	return nil
}

// checkSignature says whether a signature is one, and of an image; "" is none. The error is
// Integrity.
func checkSignature(text string, fp kiln.Fingerprint) error {
	if text == "" {
		return nil
	}
	if _, err := signing.ParseOf(text, fp); err != nil {
		return kiln.Errorf(kiln.Integrity, "the property %s of image %s can't be kept: %w; sign the image again (kiln image "+
			"sign), or leave the property out", kiln.SignatureProperty, fp.Short(), err)
	}
	return nil
}

func dropEmpty(m map[string]string) {
	maps.DeleteFunc(m, func(_, v string) bool { return v == "" })
}

// Touch remembers that an image was used. The error is NotFound.
func (s *Store) Touch(ctx context.Context, fp kiln.Fingerprint, t time.Time) error {
	return s.db.Tx(ctx, func(tx *db.Tx) error { return tx.TouchImage(ctx, fp, t) })
}

// Delete removes an image with its aliases, and the files that no other image
// has. The error is NotFound.
func (s *Store) Delete(ctx context.Context, fp kiln.Fingerprint) error {
	gone, err := s.DeleteIf(ctx, fp, func(kiln.Image) bool { return true })
	if err == nil && !gone {
		err = kiln.Errorf(kiln.NotFound, "Image %q not found", fp)
	}
	return err
}

// DeleteIf is Delete for an image of which a rule says that nobody wants it, as it is when
// it is deleted. It reports whether that was so: it isn't if the image is gone.
func (s *Store) DeleteIf(ctx context.Context, fp kiln.Fingerprint, unwanted func(kiln.Image) bool) (gone bool,
	err error) {
	var files []kiln.File
	err = s.db.Tx(db.Freeing(ctx), func(tx *db.Tx) error {
		img, err := imageOf(ctx, tx, fp, true)
		if errors.Is(err, kiln.NotFound) || err == nil && !unwanted(img) {
			return nil
		}
		if err != nil {
			return err
		}
		gone, files = true, img.Files
		return tx.DeleteImage(ctx, fp)
	})
	if err != nil || !gone {
		return false, err
	}
	if others, err := s.db.Images(project.InAll(ctx), db.ImageQuery{Fingerprint: fp}); err == nil && len(others) == 0 {
		s.missing.forget(fp)
	}
	return true, s.dropUnused(ctx, files)
}

// dropUnused removes the files that no image has, while none is being added.
func (s *Store) dropUnused(ctx context.Context, files []kiln.File) error {
	s.files.Lock()
	defer s.files.Unlock()
	used, err := s.db.Blobs(ctx)
	if err != nil {
		return err
	}
	if used[kiln.Fingerprint{}] > 0 {
		return nil // nobody knows which files a damaged row is of
	}
	var errs []error
	for _, f := range files {
		if used[f.Hash] == 0 && !f.Hash.IsZero() {
			errs = append(errs, s.blobs.Delete(f.Hash))
		}
	}
	return errors.Join(errs...)
}

// Verify reads every file of an image again. Errors: NotFound, Integrity.
func (s *Store) Verify(ctx context.Context, fp kiln.Fingerprint) error {
	img, err := s.Get(ctx, fp)
	if err != nil {
		return err
	}
	for _, f := range img.Files {
		err := s.blobs.Verify(ctx, f.Hash)
		if err == nil {
			s.cameBack(ctx, []kiln.File{f})
		}
		if errors.Is(err, kiln.NotFound) {
			if err := s.miss(ctx, f.Hash, isMissing); err != nil {
				return err
			}
			return kiln.Errorf(kiln.Integrity, "image %s: the %s file is lost: %s; copy or import the image again to restore it",
				fp.Short(), f.Role, s.blobs.Path(f.Hash))
		}
		if errors.Is(err, kiln.Integrity) {
			if err := s.miss(ctx, f.Hash, isDamaged); err != nil {
				return err
			}
			return kiln.Errorf(kiln.Integrity, "image %s: the %s file: %w; copy or import the image again to restore it",
				fp.Short(), f.Role, err)
		}
		if err != nil {
			return kiln.Errorf(kiln.KindOf(err), "image %s: the %s file: %w", fp.Short(), f.Role, err)
		}
	}
	return nil
}

// Usage is what the images cost, in bytes.
type Usage struct {
	Images []ImageUsage
	Stored int64 // all blobs, each counted once
	Shared int64 // saved by images that have a file in common
	Free   int64
}

// ImageUsage is what one image costs, in bytes.
type ImageUsage struct {
	Image  kiln.Image
	Stored int64 // its files
	Shared int64 // of them, in files that other images have too
}

// Usage tells what the images of the projects that ctx is about cost.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	list, err := s.db.Images(ctx, db.ImageQuery{Files: true})
	if err != nil {
		return Usage{}, err
	}
	used := map[kiln.Fingerprint]int{} // not by what other projects have: nobody is told of that
	for _, img := range list {
		for _, f := range img.Files {
			used[f.Hash]++
		}
	}
	var u Usage
	seen := map[kiln.Fingerprint]bool{}
	for _, img := range list {
		i := ImageUsage{Image: img}
		for _, f := range img.Files {
			i.Stored += f.Size
			if used[f.Hash] > 1 {
				i.Shared += f.Size
			}
			if seen[f.Hash] {
				u.Shared += f.Size
			} else {
				u.Stored += f.Size
			}
			seen[f.Hash] = true
		}
		u.Images = append(u.Images, i)
	}
	u.Free, err = s.blobs.Free()
	return u, err
}
