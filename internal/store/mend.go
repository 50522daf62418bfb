package store

import (
	"context"
	"errors"
	"io"

	"github.com/kiln-containers/kiln"
)

// mostMending is how many files a stream may have that something is mended from.
const mostMending = 8

// Mend takes a file that is damaged or lost here out of a stream, whatever else is in that.
// Nothing changes unless its bytes are those that the file had; what is in its place is put
// away then. Errors: Integrity when the stream hasn't these bytes, NoSpace.
func (s *Store) Mend(ctx context.Context, bad kiln.File, in kiln.Stream) error {
	for range mostMending {
		f, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !f.Hash.IsZero() && f.Hash != bad.Hash {
			continue
		}
		if done, err := s.mend(ctx, bad, in); done || err != nil {
			return err
		}
	}
	return kiln.Errorf(kiln.Integrity, "it has other bytes than the file %s", bad.Hash)
}

// mend reads one file, and takes it if it is the one. No more is read of it than that has.
func (s *Store) mend(ctx context.Context, bad kiln.File, in io.Reader) (done bool, err error) {
	w, err := s.blobs.Create(bad.Size)
	if err != nil {
		return false, err
	}
	defer w.Close()
	if _, err := io.Copy(w, io.LimitReader(in, bad.Size+1)); err != nil {
		return false, err
	}
	h, err := w.Hash()
	if err != nil {
		return false, err
	}
	if ctx.Err() != nil || kiln.Fingerprint(h.Sum(nil)) != bad.Hash {
		return false, context.Cause(ctx)
	}
	if err := s.place(w.Mend, bad.Hash); err != nil {
		return false, err
	}
	s.cameBack(ctx, []kiln.File{bad})
	// Its images may have been deleted meanwhile.
	return true, s.dropUnused(context.WithoutCancel(ctx), []kiln.File{bad})
}

func (s *Store) place(mend func(kiln.Fingerprint) error, hash kiln.Fingerprint) error {
	s.files.RLock()
	defer s.files.RUnlock()
	return mend(hash)
}
