package remote

import (
	"context"
	"fmt"
	"io"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/delta"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/fetch"
)

// A Seed is a file that is here and may be much like one that isn't.
type Seed struct {
	Path  string
	Hash  kiln.Fingerprint
	Size  int64
	Kin   bool // of another version of the same image, or nearly so
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

func startMade(ctx context.Context, w *way) *made {
	ctx, cancel := context.WithCancel(ctx)
	r, out := io.Pipe()
	m := &made{r, cancel, make(chan struct{})}
	go func() {
		defer close(m.done)
		defer w.close()
		out.CloseWithError(w.write(ctx, out))
	}()
	return m
}

// A way is how to have a file for less than its size.
type way struct {
	moves int64 // bytes over the network, roughly
	how   string
	write func(context.Context, io.Writer) error
	close func()
}

// mostPatches is how many patches are asked for: the server may have to make each.
const mostPatches = 2

// cheaper finds a way to have a file for less than its size: by a patch to a file
// that is here, or by fetching only the parts that no file here has. nil: there is
// none.
func (s *webStream) cheaper(f webFile) *way {
	if s.access.Seeds == nil || f.Size < leastDelta || f.Hash.IsZero() || f.beside == nil {
		return nil
	}
	seeds := s.access.Seeds(s.img, f.File)
	for n, seed := range seeds {
		if n == mostPatches || !seed.Kin {
			break
		}
		if w := s.patched(f, seed); w != nil {
			return w
		}
	}
	return s.assembled(f, seeds)
}

// patched asks for the patch that makes the file of a seed.
func (s *webStream) patched(f webFile, seed Seed) *way {
	patch := s.fetch.Open(s.ctx, fetch.File{URLs: f.beside("patch", seed.Hash), Size: -1})
	size, err := patch.Length()
	if err != nil || size < 0 || float64(size) > worth*float64(f.Size) {
		patch.Close()
		return nil
	}
	base, err := disk.Open(seed.Path)
	if err != nil {
		patch.Close()
		return nil
	}
	w := &way{moves: size, how: "a patch to " + seed.Hash.Short(), close: func() {
		base.Close()
		patch.Close()
	}}
	w.write = func(ctx context.Context, out io.Writer) error {
		got, err := delta.ApplyPatch(ctx, io.NewSectionReader(base, 0, seed.Size), s.counting(patch), &limited{out, f.Size})
		if err == nil && got != f.Hash {
			err = kiln.Errorf(kiln.Integrity, "the patch makes the file %s, not %s", got, f.Hash)
		}
		return err
	}
	return w
}

// assembled asks for the index of the file, and then for what the seeds haven't.
func (s *webStream) assembled(f webFile, seeds []Seed) *way {
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
		if file, err := disk.Open(seed.Path); err == nil {
			have, open = append(have, delta.Seed{File: file, Index: x}), append(open, file)
		}
	}
	plan := delta.Plan(idx, have)
	w := &way{moves: plan.Fetched, how: fmt.Sprintf("parts; %s are in files that are here", kiln.FormatSize(plan.Reused)),
		close: func() {
			for _, c := range open {
				c.Close()
			}
		}}
	if float64(plan.Fetched) > worth*float64(f.Size) {
		w.close()
		return nil
	}
	w.write = func(ctx context.Context, out io.Writer) error {
		_, err := delta.Assemble(ctx, idx, have, func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
			r := s.fetch.OpenRange(ctx, fetch.File{URLs: f.urls, Size: f.Size}, off, n)
			return struct {
				io.Reader
				io.Closer
			}{s.counting(r), r}, nil
		}, out)
		return err
	}
	return w
}

// An Estimate says what having one file of an image would cost.
type Estimate struct {
	File  kiln.File
	Moves int64  // bytes over the network, roughly; -1 if unknown
	How   string // "the whole file", or where the rest comes from
}

// Estimate tells what reading the stream would cost. It reads nothing of it, but
// asks for what tells.
func (s *webStream) Estimate() []Estimate {
	var list []Estimate
	for _, f := range s.files {
		e := Estimate{f.File, f.Size, "the whole file"}
		if w := s.cheaper(f); w != nil {
			e.Moves, e.How = w.moves, w.how
			w.close()
		}
		list = append(list, e)
	}
	return list
}

// Estimate is webStream's, with the difference that makes the last file.
func (s *deltaStream) Estimate() []Estimate {
	list := s.webStream.Estimate()
	last := &list[len(list)-1]
	last.Moves, last.How = s.delta.Size, "a difference (VCDIFF) to "+s.base
	return list
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

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	if l.left -= int64(len(b)); l.left < 0 {
		return 0, kiln.Errorf(kiln.Integrity, "the patch makes a larger file than it should")
	}
	return l.w.Write(b)
}
