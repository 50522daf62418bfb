package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/kiln-containers/kiln"
)

// A Seed is a file at hand, and what is in it. Neither has to be true: every
// chunk is checked before it is used.
type Seed struct {
	File  io.ReaderAt
	Index Index
}

// A Fetch opens n bytes of the file that is being assembled, from off on. It is
// called from several goroutines.
type Fetch func(ctx context.Context, off, n int64) (io.ReadCloser, error)

// Stats say where the bytes of a file come from.
type Stats struct {
	Reused  int64 // bytes, from seeds
	Fetched int64 // bytes, with the gaps that are cheaper fetched than skipped
	Ranges  int   // requests
	Broken  int   // chunks that a seed has not as its index says; they are fetched
}

const (
	maxGap   = 8 << 10 // to fetch so much takes no longer than another request
	maxRange = 4 << 20 // so that several are fetched at once, and memory is bounded
	fetchers = 8       // a request mostly waits for the network
)

// A place is where a seed has a chunk.
type place struct {
	file io.ReaderAt
	off  int64
}

// A span is a part of the file that comes from one side: fetched in one request,
// or from seeds chunk by chunk.
type span struct {
	chunks []Chunk
	fetch  bool
	places []place // of the chunks, when they are not fetched

	data  []byte
	stats Stats
}

func (s *span) size() int {
	last := s.chunks[len(s.chunks)-1]
	return int(last.Offset-s.chunks[0].Offset) + last.Size
}

// Plan says what Assemble would do, if the seeds hold what they promise.
func Plan(idx Index, seeds []Seed) Stats {
	var st Stats
	for s := range spans(idx, seeds) {
		if s.fetch {
			st.Fetched += int64(s.size())
			st.Ranges++
		} else {
			st.Reused += int64(s.size())
		}
	}
	return st
}

// Assemble writes the file that idx describes: chunks that a seed has come from
// there, the rest is fetched in as few ranges as makes sense. Each chunk is
// checked, and the whole at the end; what doesn't match is Integrity.
func Assemble(ctx context.Context, idx Index, seeds []Seed, fetch Fetch, w io.Writer) (Stats, error) {
	var st Stats
	whole := sha256.New()
	out := io.MultiWriter(w, whole)
	l := line[*span]{workers: fetchers}
	l.make = func(emit func(*span) error) error {
		for s := range spans(idx, seeds) {
			if err := emit(s); err != nil {
				return err
			}
		}
		return nil
	}
	l.worker = func() (func(context.Context, *span) error, error) {
		return func(ctx context.Context, s *span) error { return s.load(ctx, fetch) }, nil
	}
	l.use = func(s *span) error {
		st.Reused += s.stats.Reused
		st.Fetched += s.stats.Fetched
		st.Ranges += s.stats.Ranges
		st.Broken += s.stats.Broken
		_, err := out.Write(s.data)
		return err
	}
	if err := l.run(ctx); err != nil {
		return st, fmt.Errorf("assemble %s: %w", idx.Whole.Short(), err)
	}
	if got := kiln.Fingerprint(whole.Sum(nil)); got != idx.Whole {
		return st, kiln.Errorf(kiln.Integrity, "assemble %s: the result is %s", idx.Whole.Short(), got.Short())
	}
	return st, nil
}

// spans yields the parts of the file in order.
func spans(idx Index, seeds []Seed) func(yield func(*span) bool) {
	return func(yield func(*span) bool) {
		have := places(idx, seeds)
		var s *span
		for i := 0; i < len(idx.Chunks); i++ {
			c := idx.Chunks[i]
			at, ok := have[c.Hash]
			if s != nil && ok && s.fetch && smallGap(idx.Chunks[i:], have, s) {
				ok = false
			}
			if s == nil || s.fetch == ok || s.size()+c.Size > maxRange {
				if s != nil && !yield(s) {
					return
				}
				s = &span{fetch: !ok}
			}
			s.chunks = append(s.chunks, c)
			s.places = append(s.places, at)
		}
		if s != nil {
			yield(s)
		}
	}
}

// smallGap reports whether chunks that seeds have lie between two that have to be
// fetched, and are so short that one request for all is better.
func smallGap(next []Chunk, have map[kiln.Fingerprint]place, s *span) bool {
	gap := 0
	for _, c := range next {
		if _, ok := have[c.Hash]; !ok {
			return s.size()+gap+c.Size <= maxRange
		}
		if gap += c.Size; gap > maxGap {
			break
		}
	}
	return false
}

// places finds the chunks of idx in the seeds.
func places(idx Index, seeds []Seed) map[kiln.Fingerprint]place {
	sizes := make(map[kiln.Fingerprint]int, len(idx.Chunks))
	for _, c := range idx.Chunks {
		sizes[c.Hash] = c.Size
	}
	have := map[kiln.Fingerprint]place{}
	for _, s := range seeds {
		for _, c := range s.Index.Chunks {
			if n, ok := sizes[c.Hash]; ok && n == c.Size {
				have[c.Hash] = place{s.File, c.Offset}
			}
		}
	}
	return have
}

// load fills in the bytes of a span.
func (s *span) load(ctx context.Context, fetch Fetch) error {
	s.data = make([]byte, 0, s.size())
	if s.fetch {
		return s.get(ctx, fetch, s.chunks)
	}
	for i, c := range s.chunks {
		n := len(s.data)
		b, err := readAt(s.places[i].file, s.data, s.places[i].off, c.Size)
		if err == nil && c.Hash == sha256.Sum256(b[n:]) {
			s.data = b
			s.stats.Reused += int64(c.Size)
			continue
		}
		s.stats.Broken++
		if err := s.get(ctx, fetch, s.chunks[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// get fetches chunks that follow each other and appends them.
func (s *span) get(ctx context.Context, fetch Fetch, chunks []Chunk) (err error) {
	off := chunks[0].Offset
	last := chunks[len(chunks)-1]
	n := last.Offset + int64(last.Size) - off
	s.stats.Ranges++
	s.stats.Fetched += n
	body, err := fetch(ctx, off, n)
	if err != nil {
		return fmt.Errorf("fetch %d bytes at %d: %w", n, off, err)
	}
	defer body.Close()
	start := len(s.data)
	s.data = s.data[:start+int(n)]
	if _, err := io.ReadFull(body, s.data[start:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return kiln.Errorf(kiln.Network, "fetch %d bytes at %d: there are fewer", n, off)
		}
		return fmt.Errorf("fetch %d bytes at %d: %w", n, off, err)
	}
	b := bytes.NewBuffer(s.data[start:])
	for _, c := range chunks {
		if c.Hash != sha256.Sum256(b.Next(c.Size)) {
			return kiln.Errorf(kiln.Integrity, "the %d bytes fetched from %d on are not those of the index", c.Size, c.Offset)
		}
	}
	return nil
}
