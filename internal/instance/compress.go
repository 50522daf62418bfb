package instance

import (
	"context"
	"io"

	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/delta"
)

// compress gives a writer that compresses a tar on its way to w. zstd is in frames
// that next versions share, which every reader of zstd takes for an ordinary file.
func compress(ctx context.Context, w io.Writer, c archive.Compression, dir string) (io.WriteCloser, error) {
	if !c.Framed() {
		return archive.Compress(ctx, w, c, dir)
	}
	r, in := io.Pipe()
	f := &framer{PipeWriter: in, done: make(chan error, 1)}
	go func() {
		_, err := delta.Compress(ctx, w, r, delta.Options{})
		r.CloseWithError(err) // whoever writes on is told
		f.done <- err
	}()
	return f, nil
}

// framer is a tar on its way through delta.Compress.
type framer struct {
	*io.PipeWriter
	done chan error
}

// Close ends the tar and waits for the last frame.
func (f *framer) Close() error {
	f.PipeWriter.Close() // never fails
	return <-f.done
}
