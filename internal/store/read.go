package store

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/project"
)

// A skipper is a stream that can begin its current file later than at its start.
type skipper interface {
	CanSkip() bool // with this file
	// Skip comes before the first Read; n is in bytes.
	Skip(n int64) error
}

// read takes every file of the stream in.
func (p *putter) read(in kiln.Stream) error {
	lim := archive.Limits{}
	if p.store.opts.Limits != nil {
		var err error
		if lim, err = p.store.opts.Limits(p.ctx); err != nil {
			return err
		}
		defer lim.Visit.Leave()
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
	inspect := inspector(in, r, w, lim)
	type outcome struct {
		facts format.Facts
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		facts, err := inspect(ctx)
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
		if !errors.Is(o.err, kiln.Busy) {
			w.Discard() // it won't get better
		}
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
	// Whoever goes on with what another project was given a part of has not shown that they
	// have the file.
	if in, err := project.One(p.ctx, project.Images); err != nil {
		return nil, err
	} else if in != project.Default {
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
		if err := tee.send(b); err != nil && !(known && (errors.Is(err, kiln.Invalid) || errors.Is(err, kiln.Integrity))) {
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
