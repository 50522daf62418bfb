package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format"
)

// PutOptions say how to deal with what is in the way of an import.
type PutOptions struct {
	MoveAliases bool // from other images, instead of a Conflict
	// Replaces is the older version of the image, whose aliases, flags and
	// users' properties go over to it with the rows. Zero: none.
	Replaces kiln.Fingerprint
	// KeepExisting leaves an image that is here already as it is: nothing given is
	// applied to it.
	KeepExisting bool
	// Warn is called with what of the image is not as its maker may think; nil: nobody
	// wants to know.
	Warn func(string)
}

// With gives the same store whose Put behaves otherwise.
func (s *Store) With(o PutOptions) *Store {
	c := *s
	c.put = o
	return &c
}

// Put reads an image to its end and keeps it: each byte is hashed, written and
// unpacked for a check in one pass, and the rows come last, all at once.
//
// What was read of a file whose hash is known beforehand stays when the stream
// fails, and the next Put goes on with it if its stream can skip.
//
// An image that is here already is a Conflict, and is returned; the aliases and
// properties given are applied to it all the same, and files that were lost or
// damaged are mended. Other errors: Invalid and Unsupported for what is no image,
// TooLarge, Integrity when it isn't the fingerprint or the file that was
// expected or the signature isn't one of it, NoSpace, Conflict for an alias that is taken.
func (s *Store) Put(ctx context.Context, img kiln.Image, in kiln.Stream) (kiln.Image, error) {
	for _, a := range img.Aliases {
		if err := kiln.CheckAlias(a.Name); err != nil {
			return kiln.Image{}, err
		}
	}
	if err := checkProperties(img.Properties); err != nil {
		return kiln.Image{}, err
	}
	if !s.put.MoveAliases {
		if err := s.Taken(ctx, img.Aliases, img.Fingerprint); err != nil {
			return kiln.Image{}, err
		}
	}
	p := &putter{store: s, ctx: ctx}
	defer p.close()
	if err := p.read(in); err != nil {
		return kiln.Image{}, err
	}
	if err := p.arrange(); err != nil {
		return kiln.Image{}, err
	}
	if s.put.Warn != nil && len(p.layout.Warnings) > 0 {
		s.put.Warn(strings.Join(p.layout.Warnings, "; "))
	}
	if !img.Fingerprint.IsZero() && img.Fingerprint != p.fingerprint {
		for _, w := range p.writers {
			w.Discard()
		}
		return kiln.Image{}, kiln.Errorf(kiln.Integrity, "fingerprints don't match, got %s expected %s", p.fingerprint,
			img.Fingerprint)
	}
	if err := checkSignature(img.Signature, p.fingerprint); err != nil {
		return kiln.Image{}, err
	}
	got, err := p.commit(img)
	if err != nil && !errors.Is(err, kiln.Conflict) || got.Fingerprint.IsZero() {
		// No row names these files, unless another image has them.
		return got, errors.Join(err, s.dropUnused(context.WithoutCancel(ctx), p.brought()))
	}
	return got, err
}

// putter is one import under way.
type putter struct {
	store       *Store
	ctx         context.Context
	whole       hash.Hash // of all files, as they come; nil while the first is the only one
	files       []kiln.File
	writers     []*blob.Writer
	facts       []format.Facts
	layout      format.Layout
	fingerprint kiln.Fingerprint
}

func (p *putter) close() {
	for _, w := range p.writers {
		w.Close()
	}
}

// arrange finds out what the files are to the image, puts them in order and makes
// the metadata that is missing.
func (p *putter) arrange() error {
	var err error
	if p.layout, err = format.Arrange(p.facts); err != nil {
		return err
	}
	for i := range p.files {
		p.files[i].Role = p.layout.Roles[i]
	}
	switch {
	case p.layout.Synthesised != nil:
		w, err := p.store.blobs.Create(int64(len(p.layout.Synthesised)))
		if err != nil {
			return err
		}
		p.writers = append([]*blob.Writer{w}, p.writers...)
		if _, err := w.Write(p.layout.Synthesised); err != nil {
			return err
		}
		f := kiln.File{Role: kiln.Metadata, Name: "metadata.tar", Size: w.Size(), Ext: archive.Tar.Ext()}
		p.files = append([]kiln.File{f}, p.files...)
		return p.rehash()
	case p.layout.Swapped():
		p.files[0], p.files[1] = p.files[1], p.files[0]
		p.writers[0], p.writers[1] = p.writers[1], p.writers[0]
		return p.rehash()
	}
	if p.whole == nil {
		err = p.goOnHashing()
	}
	if err == nil {
		p.fingerprint = kiln.Fingerprint(p.whole.Sum(nil))
	}
	return err
}

// rehash is for the rare case that the files didn't come in the order that the
// fingerprint is made in.
func (p *putter) rehash() error {
	h := sha256.New()
	for _, w := range p.writers {
		if _, err := io.Copy(h, io.NewSectionReader(w.File(), 0, w.Size())); err != nil {
			return err
		}
	}
	p.fingerprint = kiln.Fingerprint(h.Sum(nil))
	return nil
}

// commit makes the blobs appear, then the rows.
func (p *putter) commit(given kiln.Image) (kiln.Image, error) {
	s := p.store
	s.files.RLock()
	defer s.files.RUnlock()
	img := p.image(given)
	for i, w := range p.writers {
		hash, err := w.Commit(p.files[i].Hash)
		if err != nil {
			return kiln.Image{}, err
		}
		p.files[i].Hash, img.Files[i].Hash = hash, hash
	}
	exists := false
	err := s.db.Tx(p.ctx, func(tx *db.Tx) error {
		err := tx.CreateImage(p.ctx, img)
		if exists = errors.Is(err, kiln.Conflict); exists {
			if s.put.KeepExisting {
				return nil
			}
			err = p.applyTo(tx, given)
		}
		if err != nil {
			return err
		}
		for _, a := range given.Aliases {
			a.Target = img.Fingerprint
			if err := setAlias(p.ctx, tx, a, s.put.MoveAliases); err != nil {
				return err
			}
		}
		return replace(p.ctx, tx, s.put.Replaces, img.Fingerprint)
	})
	if err != nil {
		return kiln.Image{}, err
	}
	for _, f := range s.cameBack(p.ctx, p.files) {
		if s.put.Warn != nil {
			s.put.Warn(fmt.Sprintf("the %s file of the image was missing or damaged; it is repaired", f.Role))
		}
	}
	got, err := s.Get(p.ctx, img.Fingerprint)
	if err == nil && exists {
		err = kiln.Errorf(kiln.Conflict, "Image with same fingerprint already exists")
	}
	return got, err
}

// brought gives the files that weren't here before. What no row named already is for the
// sweep to put away, and for recovery to find.
func (p *putter) brought() (list []kiln.File) {
	for i, w := range p.writers {
		if w.New() {
			list = append(list, p.files[i])
		}
	}
	return list
}

// image is the row of what was read.
func (p *putter) image(given kiln.Image) kiln.Image {
	m := p.layout.Metadata
	arch, _ := kiln.ParseArch(m.Architecture) // checked with the metadata
	img := kiln.Image{
		Fingerprint: p.fingerprint, Type: "container", Architecture: arch, Filename: given.Filename,
		Properties: map[string]string{}, Profiles: given.Profiles, Public: given.Public, AutoUpdate: given.AutoUpdate,
		Cached: given.Cached, CreatedAt: m.Created(), ExpiresAt: m.Expires(), UploadedAt: time.Now().UTC(), Files: p.files,
		Origin: given.Origin, Own: given.Own, Signature: given.Signature,
	}
	if !given.ExpiresAt.IsZero() {
		img.ExpiresAt = given.ExpiresAt
	}
	maps.Copy(img.Properties, m.Properties)
	delete(img.Properties, kiln.SignatureProperty) // no file has a signature of itself
	maps.Copy(img.Properties, given.Properties)
	maps.Copy(img.Properties, given.Own)
	dropEmpty(img.Properties)
	for _, f := range p.files {
		img.Size += f.Size
	}
	return img
}

// applyTo lays what the user said over an image that is here already.
func (p *putter) applyTo(tx *db.Tx, given kiln.Image) error {
	here, err := whole(p.ctx, tx, p.fingerprint)
	if err != nil {
		return err
	}
	img, err := laidOver(here, given)
	if err != nil {
		return err
	}
	return tx.UpdateImage(p.ctx, img)
}

// laidOver is an image that is here with what somebody says who brings it again. The error
// is Conflict when it is to be updated from elsewhere than it is.
func laidOver(img, given kiln.Image) (kiln.Image, error) {
	elsewhere := img.UpdatedElsewhere(given.Origin)
	if elsewhere && given.AutoUpdate {
		return img, kiln.Errorf(kiln.Conflict, "image %s is here already, updated from %q of %s, so it can't be updated "+
			"from %q of %s as well: both names mean it at the moment, and an image has one source; copy it when they mean "+
			"different images, or leave auto-update out, or delete it first: kiln image delete %s", img.Fingerprint.Short(),
			img.Origin.Alias, img.Origin.Server, given.Origin.Alias, given.Origin.Server, img.Fingerprint.Short())
	}
	for k, v := range given.Properties {
		if _, has := img.Properties[k]; !has {
			img.Properties[k] = v
		}
	}
	maps.Copy(img.Properties, given.Own)
	maps.Copy(img.Own, given.Own)
	dropEmpty(img.Properties)
	img.Signature = cmp.Or(img.Signature, given.Signature)
	img.Public = img.Public || given.Public
	// Where it is updated from is not changed by somebody who finds it elsewhere as well.
	if given.Origin != nil && !elsewhere && (img.Origin == nil || img.Origin.Server == given.Origin.Server) {
		origin := *given.Origin
		if img.Origin != nil { // nor does somebody without a key take away that of another
			origin.ImageKey = cmp.Or(origin.ImageKey, img.Origin.ImageKey)
		}
		img.Origin = &origin
	}
	img.AutoUpdate = img.AutoUpdate || given.AutoUpdate
	img.Cached = img.Cached && given.Cached
	return img, nil
}

// checked compares what it reads with a hash.
type checked struct {
	f    *os.File
	want kiln.Fingerprint
	hash hash.Hash
}

func newChecked(f *os.File, want kiln.Fingerprint) *checked {
	return &checked{f, want, sha256.New()}
}

// Read gives Integrity in the place of io.EOF for a file that isn't as it was.
func (c *checked) Read(b []byte) (int, error) {
	n, err := c.f.Read(b)
	c.hash.Write(b[:n])
	if errors.Is(err, io.EOF) && !bytes.Equal(c.hash.Sum(nil), c.want[:]) {
		return n, kiln.Errorf(kiln.Integrity, "the file %s is damaged: its hash is not its name; import the image again "+
			"to restore it", c.f.Name())
	}
	return n, err
}
