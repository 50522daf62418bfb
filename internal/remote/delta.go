package remote

import (
	"context"
	"io"
	"os"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/delta"
	"github.com/kiln-containers/kiln/internal/fetch"
)

// A Seed is a file that is here and may be much like one that isn't.
type Seed struct {
	Path  string
	Hash  kiln.Fingerprint
	Size  int64
	Index func(context.Context) (delta.Index, error)
}

// Limits on what a server may send in the place of a file.
const (
	leastDelta = 1 << 20   // bytes of a file that is worth it
	maxIndex   = 256 << 20 // bytes of an index
	worth      = 0.9       // of the whole; what saves less isn't worth it
)

// A made file is put together here, from parts that are here and parts that are
// fetched. What is read to its end is right, or an error.
type made struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

// Close ends the making.
func (m *made) Close() error {
	m.cancel()
	m.PipeReader.Close()
	<-m.done
	return nil
}

func startMade(ctx context.Context, write func(context.Context, io.Writer) error) *made {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	m := &made{r, cancel, make(chan struct{})}
	go func() {
		defer close(m.done)
		w.CloseWithError(write(ctx, w))
	}()
	return m
}

// makeFile finds a way to have a file for less than its size: by a patch to a file
// that is here, or by fetching only the parts that no file here has. nil: there is
// none.
func (s *webStream) makeFile(f webFile) *made {
	if s.access.Seeds == nil || f.Size < leastDelta || f.Hash.IsZero() || f.beside == nil {
		return nil
	}
	seeds := s.access.Seeds(s.img, f.File)
	for _, seed := range seeds {
		if m := s.patched(f, seed); m != nil {
			return m
		}
	}
	return s.assembled(f, seeds)
}

// patched asks for the patch that makes the file of a seed.
func (s *webStream) patched(f webFile, seed Seed) *made {
	patch := s.fetch.Open(s.ctx, fetch.File{URLs: f.beside("patch", seed.Hash), Size: -1})
	size, err := patch.Length()
	if err != nil || size < 0 || float64(size) > worth*float64(f.Size) {
		patch.Close()
		return nil
	}
	base, err := os.Open(seed.Path)
	if err != nil {
		patch.Close()
		return nil
	}
	return startMade(s.ctx, func(ctx context.Context, w io.Writer) error {
		defer base.Close()
		defer patch.Close()
		got, err := delta.ApplyPatch(ctx, io.NewSectionReader(base, 0, seed.Size), s.counting(patch), &limited{w, f.Size})
		if err == nil && got != f.Hash {
			err = kiln.Errorf(kiln.Integrity, "the patch makes the file %s, not %s", got, f.Hash)
		}
		return err
	})
}

// assembled asks for the index of the file, and then for what the seeds haven't.
func (s *webStream) assembled(f webFile, seeds []Seed) *made {
	if len(seeds) == 0 {
		return nil
	}
	idx, err := s.index(f)
	if err != nil || idx.Whole != f.Hash || idx.Size() != f.Size {
		return nil
	}
	var have []delta.Seed
	var open []io.Closer
	for _, seed := range seeds {
		x, err := seed.Index(s.ctx)
		if err != nil {
			continue
		}
		if file, err := os.Open(seed.Path); err == nil {
			have, open = append(have, delta.Seed{File: file, Index: x}), append(open, file)
		}
	}
	closeAll := func() {
		for _, c := range open {
			c.Close()
		}
	}
	if plan := delta.Plan(idx, have); float64(plan.Fetched) > worth*float64(f.Size) {
		closeAll()
		return nil
	}
	return startMade(s.ctx, func(ctx context.Context, w io.Writer) error {
		defer closeAll()
		_, err := delta.Assemble(ctx, idx, have, func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
			r := s.fetch.OpenRange(ctx, fetch.File{URLs: f.urls, Size: f.Size}, off, n)
			return struct {
				io.Reader
				io.Closer
			}{s.counting(r), r}, nil
		}, w)
		return err
	})
}

func (s *webStream) index(f webFile) (delta.Index, error) {
	r := s.fetch.Open(s.ctx, fetch.File{URLs: f.beside("index", kiln.Fingerprint{}), Size: -1})
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(s.counting(r), maxIndex))
	if err != nil {
		return delta.Index{}, err
	}
	return delta.ParseIndex(b)
}

// counting tells how many bytes came over the network.
func (s *webStream) counting(r io.Reader) io.Reader {
	if s.access.Moved == nil {
		return r
	}
	return readerFunc(func(b []byte) (int, error) {
		n, err := r.Read(b)
		s.access.Moved(int64(n))
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// limited refuses more bytes than a file has.
type limited struct {
	w    io.Writer
	left int64
}

// Write is io.Writer's.
func (l *limited) Write(b []byte) (int, error) {
	if l.left -= int64(len(b)); l.left < 0 {
		return 0, kiln.Errorf(kiln.Integrity, "the patch makes a larger file than it should")
	}
	return l.w.Write(b)
}
