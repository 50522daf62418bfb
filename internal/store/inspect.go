package store

import (
	"context"
	"io"
	"sync"

	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/format"
)

// A tarrer is a stream that compresses its current file itself, and gives the tar
// too, so that nothing is decompressed that was compressed a moment before.
type tarrer interface {
	// Tar comes before the first Read. What it gives is read to its end or closed,
	// beside the file. nil: there is only the file.
	Tar() (*io.PipeReader, archive.Format)
}

// inspector gives what inspects the file that a stream is at, of which r has the
// bytes. It reads r to its end, or fails.
func inspector(in io.Reader, r *queueReader, w *blob.Writer, lim archive.Limits) func(context.Context) (format.Facts,
	error) {
	if t, ok := in.(tarrer); ok {
		if tar, kind := t.Tar(); tar != nil {
			return func(ctx context.Context) (format.Facts, error) { return inspectTar(ctx, tar, kind, r, lim) }
		}
	}
	return func(ctx context.Context) (format.Facts, error) { return format.Inspect(ctx, r, w.File(), lim) }
}

// inspectTar inspects a tar in the place of the file that is made of it.
func inspectTar(ctx context.Context, tar *io.PipeReader, kind archive.Format, file io.Reader,
	lim archive.Limits) (format.Facts, error) {
	var rest sync.WaitGroup
	rest.Go(func() { _, _ = io.Copy(io.Discard, file) })
	defer rest.Wait()
	// Who writes the tar may wait for the file to be read, which nobody does then.
	stop := context.AfterFunc(ctx, func() { tar.CloseWithError(context.Cause(ctx)) })
	defer stop()
	facts, err := format.Inspect(ctx, tar, nil, lim)
	tar.CloseWithError(err)
	facts.Format = kind
	return facts, err
}
