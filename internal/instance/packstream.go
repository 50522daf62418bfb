package instance

import (
	"context"
	"errors"
	"io"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/volume"
)

// packFile is one of the files of an image to be.
type packFile struct {
	role  kiln.Role
	write func(w, tar io.Writer) error // the file, and the tar that it is
}

// packStream is an image while it is made.
type packStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	files  []packFile // to come
	framed bool       // they are tars in frames of zstd
	now    *packing
	drop   func() error
}

// packing is the current file.
type packing struct {
	packFile
	*io.PipeReader
	in      *io.PipeWriter
	tar     *io.PipeWriter // of who wants it; nil: nobody
	started bool
	done    chan error
}

// Next implements kiln.Stream.
func (st *packStream) Next() (kiln.File, error) {
	if err := st.end(); err != nil {
		return kiln.File{}, err
	}
	if len(st.files) == 0 {
		return kiln.File{}, io.EOF
	}
	st.now = &packing{packFile: st.files[0], done: make(chan error, 1)}
	st.files = st.files[1:]
	st.now.PipeReader, st.now.in = io.Pipe()
	return kiln.File{Role: st.now.role, Size: -1}, nil
}

// Tar gives the tar that the current file is, before it is compressed, and what it
// will be compressed with. It comes before the first Read, and is to be read or
// closed beside the file. nil: there is only the file.
func (st *packStream) Tar() (*io.PipeReader, archive.Format) {
	if st.now == nil || !st.framed {
		return nil, ""
	}
	r, w := io.Pipe()
	st.now.tar = w
	return r, archive.Zstd
}

// Read implements kiln.Stream.
func (st *packStream) Read(b []byte) (int, error) {
	if st.now == nil {
		return 0, io.EOF
	}
	if !st.now.started {
		st.now.started = true
		go st.now.make(st.ctx)
	}
	return st.now.PipeReader.Read(b)
}

func (f *packing) make(ctx context.Context) {
	tar := io.Discard
	if f.tar != nil {
		tar = f.tar
	}
	err := f.write(f.in, tar)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // of which programs that are killed know nothing
	}
	if f.tar != nil {
		f.tar.CloseWithError(err)
	}
	f.done <- f.in.CloseWithError(err)
}

// end waits for whoever makes the current file.
func (st *packStream) end() error {
	f := st.now
	if f == nil {
		return nil
	}
	st.now = nil
	err := f.PipeReader.Close()
	if f.tar != nil {
		f.tar.CloseWithError(io.ErrClosedPipe)
	}
	if f.started {
		err = errors.Join(err, <-f.done)
	}
	return err
}

// Close ends the making, also before its end.
func (st *packStream) Close() error {
	st.cancel()
	return errors.Join(st.end(), st.drop())
}

// write makes the file that has a role in the image. tar gets what it is before it
// is compressed.
func (p packer) write(ctx context.Context, w, tar io.Writer, snap *volume.Snapshot, img kiln.Image,
	role kiln.Role) error {
	c := p.compression
	if role == kiln.Metadata && c.Name == "squashfs" {
		c = archive.Compression{Name: "none"} // a metadata file is a tar, always
	}
	z, err := compress(ctx, w, c, p.set.pool.TempDir())
	if err != nil {
		return err
	}
	both := io.Writer(z)
	if tar != io.Discard {
		both = io.MultiWriter(tar, z)
	}
	out := archive.NewPacker(both)
	out.Visit = p.Visit
	out.NoACLs = p.compression.Name == "squashfs"
	if err := p.fill(ctx, out, snap, img, role); err != nil {
		return archive.CloseAfter(err, z)
	}
	return errors.Join(out.Close(), z.Close())
}
