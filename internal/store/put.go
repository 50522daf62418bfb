package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"maps"
	"os"
	"sync"
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
}

// With gives the same store whose Put behaves otherwise.
func (s *Store) With(o PutOptions) *Store {
	c := *s
	c.put = o
	return &c
}

// A skipper is a stream that can begin its current file later than at its start.
type skipper interface {
	CanSkip() bool // with this file
	// Skip comes before the first Read; n is in bytes.
	Skip(n int64) error
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
// expected, NoSpace, Conflict for an alias that is taken.
func (s *Store) Put(ctx context.Context, img kiln.Image, in kiln.Stream) (kiln.Image, error) {
	for _, a := range img.Aliases {
		if err := kiln.CheckAlias(a.Name); err != nil {
			return kiln.Image{}, err
		}
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
	if !img.Fingerprint.IsZero() && img.Fingerprint != p.fingerprint {
		for _, w := range p.writers {
			w.Discard()
		}
		return kiln.Image{}, kiln.Errorf(kiln.Integrity, "fingerprints don't match, got %s expected %s", p.fingerprint, img.Fingerprint)
	}
	got, err := p.commit(img)
	if err != nil && !errors.Is(err, kiln.Conflict) || got.Fingerprint.IsZero() {
		// No row names these files, unless another image has them.
		return got, errors.Join(err, s.dropUnused(context.WithoutCancel(ctx), p.files))
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

// read takes every file of the stream in.
func (p *putter) read(in kiln.Stream) error {
	lim := archive.Limits{}
	if p.store.opts.Limits != nil {
		var err error
		if lim, err = p.store.opts.Limits(p.ctx); err != nil {
			return err
		}
	}
	for {
		f, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(p.files) == 2 {
			return kiln.Errorf(kiln.Invalid, "an image has one or two files, not more")
		}
		if err := p.file(f, in, lim); err != nil {
			return err
		}
	}
	if len(p.files) == 0 {
		return kiln.Errorf(kiln.Invalid, "there is no file in the upload")
	}
	return nil
}

// file writes one file and has it inspected beside that.
func (p *putter) file(f kiln.File, in io.Reader, lim archive.Limits) error {
	if len(p.writers) == 1 {
		// One file has the image's fingerprint for its hash: none is made twice.
		if err := p.goOnHashing(); err != nil {
			return err
		}
	}
	w, err := p.writer(f, in)
	if err != nil {
		return err
	}
	p.writers = append(p.writers, w)
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	r, tee := newQueue()
	type outcome struct {
		facts format.Facts
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		facts, err := format.Inspect(ctx, r, w.File(), lim)
		r.CloseWithError(err) // what is written from now on fails with err
		done <- outcome{facts, err}
	}()
	err = p.copy(w, tee, in, !f.Hash.IsZero() && f.Size >= 0)
	tee.CloseWithError(err)
	if err != nil {
		cancel()
	}
	o := <-done
	if o.err != nil && (err == nil || errors.As(err, new(rejection))) {
		w.Discard() // it won't get better
		if err == nil && !f.Hash.IsZero() {
			err = w.Check(f.Hash) // what is no archive may be another file
		}
		if err == nil || errors.As(err, new(rejection)) {
			err = o.err
		}
		return err
	}
	if err != nil {
		if errors.Is(err, kiln.NoSpace) {
			w.Discard() // others need the room more
		}
		return err
	}
	if !f.Hash.IsZero() {
		if err := w.Check(f.Hash); err != nil {
			return err
		}
	}
	f.Size, f.Ext = w.Size(), o.facts.Format.Ext()
	p.files = append(p.files, f)
	p.facts = append(p.facts, o.facts)
	return nil
}

// writer starts a blob, or goes on with one.
func (p *putter) writer(f kiln.File, in io.Reader) (*blob.Writer, error) {
	s, ok := in.(skipper)
	if !ok || f.Hash.IsZero() || !s.CanSkip() {
		return p.store.blobs.Create(f.Size)
	}
	w, err := p.store.blobs.Resume(f.Hash, f.Size)
	if err != nil || w.Have() == 0 {
		return w, err
	}
	if err := s.Skip(w.Have()); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// copy hands each piece of a file to the blob, the hash and the inspector: what is
// here from before, then what the stream gives. With known, what the inspector
// takes for damage is read to its end all the same, so that its hash can tell.
func (p *putter) copy(w *blob.Writer, tee *queueWriter, in io.Reader, known bool) error {
	send := func(b []byte) error {
		if err := tee.send(b); err != nil && !(known && errors.Is(err, kiln.Invalid)) {
			return rejection{err}
		}
		return nil
	}
	keep := func([]byte) (int, error) { return 0, nil }
	if err := p.pass(rereader{w}, tee, keep, send); err != nil {
		return err
	}
	return p.pass(in, tee, w.Write, send)
}

// A rejection is an error of who inspects a file. The inspector also gives the
// errors of who reads it, as they are.
type rejection struct{ error }

// rereader reads what a blob's writer found.
type rereader struct{ w *blob.Writer }

func (r rereader) Read(b []byte) (int, error) { return r.w.Reread(b) }

// pass reads pieces in a goroutine of its own: what comes from the network is
// decrypted while the piece before it is hashed and written.
func (p *putter) pass(in io.Reader, tee *queueWriter, write func([]byte) (int, error), send func([]byte) error) error {
	ctx, cancel := context.WithCancel(p.ctx)
	read := make(chan []byte, pieces)
	failed := make(chan error, 1)
	go func() {
		defer close(read)
		failed <- readPieces(ctx, in, tee, read)
	}()
	err := p.take(read, write, send)
	cancel()
	for range read { // until the reader has ended
	}
	if rerr := <-failed; err == nil {
		err = rerr
	}
	return err
}

// readPieces fills the buffers of a queue until the end of a file.
func readPieces(ctx context.Context, in io.Reader, tee *queueWriter, read chan<- []byte) error {
	for {
		buf := tee.buffer(ctx)
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := fill(in, buf)
		if n > 0 {
			read <- buf[:n] // pass takes everything until the end
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// take does with each piece what there is to do.
func (p *putter) take(read <-chan []byte, write func([]byte) (int, error), send func([]byte) error) error {
	for piece := range read {
		var hashing sync.WaitGroup
		if p.whole != nil {
			hashing.Go(func() { p.whole.Write(piece) })
		}
		_, err := write(piece)
		hashing.Wait()
		if err != nil {
			return err
		}
		if err := send(piece); err != nil {
			return err
		}
	}
	return nil
}

// goOnHashing starts the hash of all files with what the first has for its own.
func (p *putter) goOnHashing() (err error) {
	p.whole, err = p.writers[0].Hash()
	return err
}

// fill is io.ReadFull that keeps the reader's own error: the end of a file is not
// a connection that was cut.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
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
	got, err := s.Get(p.ctx, img.Fingerprint)
	if err == nil && exists {
		err = kiln.Errorf(kiln.Conflict, "Image with same fingerprint already exists")
	}
	return got, err
}

// image is the row of what was read.
func (p *putter) image(given kiln.Image) kiln.Image {
	m := p.layout.Metadata
	arch, _ := kiln.ParseArch(m.Architecture) // checked with the metadata
	img := kiln.Image{
		Fingerprint: p.fingerprint, Type: "container", Architecture: arch, Filename: given.Filename,
		Properties: map[string]string{}, Profiles: given.Profiles, Public: given.Public, AutoUpdate: given.AutoUpdate,
		Cached: given.Cached, CreatedAt: m.Created(), ExpiresAt: m.Expires(), UploadedAt: time.Now().UTC(), Files: p.files,
		Origin: given.Origin, Own: given.Own,
	}
	if !given.ExpiresAt.IsZero() {
		img.ExpiresAt = given.ExpiresAt
	}
	maps.Copy(img.Properties, m.Properties)
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
	list, err := tx.Images(p.ctx, db.ImageQuery{Fingerprint: p.fingerprint})
	if err != nil {
		return err
	}
	return tx.UpdateImage(p.ctx, laidOver(list[0], given))
}

// laidOver is an image that is here with what somebody says who brings it again.
func laidOver(img, given kiln.Image) kiln.Image {
	maps.Copy(img.Properties, given.Properties)
	maps.Copy(img.Properties, given.Own)
	maps.Copy(img.Own, given.Own)
	dropEmpty(img.Properties)
	img.Public = img.Public || given.Public
	img.AutoUpdate = img.AutoUpdate || given.AutoUpdate
	img.Cached = img.Cached && given.Cached
	if given.Origin != nil {
		img.Origin = given.Origin
	}
	return img
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
		return n, kiln.Errorf(kiln.Integrity, "the file %s is damaged: its hash is not its name; import the image again to mend it", c.f.Name())
	}
	return n, err
}
