package delta

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/kiln-containers/kiln"
)

// server fetches from a file.
func server(b []byte) Fetch {
	return func(_ context.Context, off, n int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[off : off+n])), nil
	}
}

func tiled(t testing.TB, x Index, size int) {
	t.Helper()
	off := int64(0)
	for _, c := range x.Chunks {
		if c.Offset != off || c.Size < 1 {
			t.Fatalf("a chunk of %d bytes at %d, not at %d", c.Size, c.Offset, off)
		}
		off += int64(c.Size)
	}
	if off != int64(size) || x.Size() != off {
		t.Fatalf("the chunks are %d bytes, the file %d", off, size)
	}
}

func TestAssemble(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		t := rapidTB{t: rt}
		base, target := two(rt)
		if rapid.Bool().Draw(rt, "tar") {
			base, target = decode(t, base), decode(t, target)
		}
		old, idx := index(t, base), index(t, target)
		tiled(t, idx, len(target))
		b, err := idx.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if idx, err = ParseIndex(b); err != nil {
			t.Fatal(err)
		}
		seeds := []Seed{{bytes.NewReader(base), old}}
		var got bytes.Buffer
		st, err := Assemble(context.Background(), idx, seeds, server(target), &got)
		if err != nil || !bytes.Equal(got.Bytes(), target) {
			t.Fatal("something else: ", err)
		}
		if st != Plan(idx, seeds) || st.Reused+st.Fetched != int64(len(target)) {
			t.Fatal("planned ", Plan(idx, seeds), ", done ", st)
		}
	})
}

func TestAssembleEnds(t *testing.T) {
	v1, _ := sample(t)
	file := framed(t, v1, small)
	idx := index(t, file)
	for name, c := range map[string]struct {
		seeds []Seed
		file  []byte
		want  Stats
	}{
		"nothing there":    {nil, file, Stats{Fetched: int64(len(file)), Ranges: 1}},
		"everything there": {[]Seed{{bytes.NewReader(file), idx}}, nil, Stats{Reused: int64(len(file))}},
		"an empty file":    {nil, nil, Stats{}},
	} {
		x := idx
		if name == "an empty file" {
			x = index(t, nil)
		}
		if got, err := Assemble(context.Background(), x, c.seeds, server(c.file), io.Discard); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestBrokenSeed: what a seed promised and has not is fetched.
func TestBrokenSeed(t *testing.T) {
	v1, _ := sample(t)
	file := framed(t, v1, small)
	idx := index(t, file)
	damaged := bytes.Clone(file)
	damaged[idx.Chunks[4].Offset] ^= 1
	lying := idx
	lying.Chunks = slices.Clone(idx.Chunks)
	for i := range lying.Chunks {
		lying.Chunks[i].Offset += 3 - int64(i%2)*1000
	}
	for name, c := range map[string]struct {
		seed   Seed
		broken int
	}{
		"damaged":     {Seed{bytes.NewReader(damaged), idx}, 1},
		"shorter":     {Seed{bytes.NewReader(file[:idx.Chunks[4].Offset]), idx}, len(idx.Chunks) - 4},
		"other index": {Seed{bytes.NewReader(file), lying}, len(idx.Chunks)},
	} {
		var got bytes.Buffer
		st, err := Assemble(context.Background(), idx, []Seed{c.seed}, server(file), &got)
		if err != nil || !bytes.Equal(got.Bytes(), file) || st.Broken != c.broken {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}

func TestBrokenServer(t *testing.T) {
	v1, _ := sample(t)
	file := framed(t, v1, small)
	idx := index(t, file)
	refused := errors.New("refused")
	for name, c := range map[string]struct {
		fetch Fetch
		want  error
	}{
		"other bytes": {server(append([]byte{1}, file...)), kiln.Integrity},
		"refused":     {func(context.Context, int64, int64) (io.ReadCloser, error) { return nil, refused }, refused},
		"short": {func(_ context.Context, off, n int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(file[off : off+n-1])), nil
		}, kiln.Network},
		"breaks off": {func(context.Context, int64, int64) (io.ReadCloser, error) {
			return io.NopCloser(iotest.ErrReader(refused)), nil
		}, refused},
	} {
		if _, err := Assemble(context.Background(), idx, nil, c.fetch, io.Discard); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Assemble(ctx, idx, nil, server(file), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestLyingIndex changes each byte of an index: whatever still parses gives
// another file or none, and neither passes for the right one.
func TestLyingIndex(t *testing.T) {
	v1, v2 := sample(t)
	file := framed(t, v1[:100<<10], small)
	idx := index(t, file)
	good, err := idx.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	seeds := []Seed{{bytes.NewReader(file), idx}}
	fetch := func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
		if off+n > int64(len(file)) {
			return nil, kiln.Errorf(kiln.Invalid, "no such range")
		}
		return server(file)(ctx, off, n)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x41
		x, err := ParseIndex(bad)
		if err == nil {
			_, err = Assemble(context.Background(), x, seeds, fetch, io.Discard)
		}
		broken(t, "a byte is other", err)
	}
	other := index(t, framed(t, v2, small)) // of another image
	other.Whole = idx.Whole
	if _, err := Assemble(context.Background(), other, nil,
		server(framed(t, v2, small)), io.Discard); !errors.Is(err, kiln.Integrity) {
		t.Errorf("another image's chunks: %v", err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "cut": good[:len(good)-1], "longer": append(good, 0),
		"text": []byte("hello")} {
		if _, err := ParseIndex(b); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	x := Index{Chunks: []Chunk{{0, 5, kiln.Fingerprint{}}, {4, 5, kiln.Fingerprint{}}}}
	if _, err := x.MarshalBinary(); err == nil {
		t.Error("chunks that overlap are written")
	}
}

// TestGaps: small chunks that are there are fetched with their neighbours.
func TestGaps(t *testing.T) {
	file := randomBytes(5, 40<<10)
	whole := Index{}
	for off := 0; off < len(file); off += 4 << 10 {
		whole.Chunks = append(whole.Chunks, index(t, file[off:off+4<<10]).Chunks[0])
		whole.Chunks[len(whole.Chunks)-1].Offset = int64(off)
	}
	whole.Whole = index(t, file).Whole
	// Of ten chunks the seed has 2 and 3, and 5 to 7.
	seed := Seed{bytes.NewReader(file), Index{Chunks: slices.Concat(whole.Chunks[2:4], whole.Chunks[5:8])}}
	want := Stats{Reused: 12 << 10, Fetched: 28 << 10, Ranges: 2}
	if got, err := Assemble(context.Background(), whole, []Seed{seed}, server(file), io.Discard); err != nil ||
		got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzParseIndex(f *testing.F) {
	v1, _ := sample(f)
	b, err := index(f, v1).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseIndex(b)
		if err != nil {
			broken(t, "fuzz", err)
			return
		}
		again, err := x.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("it is written in another way than it was read: %v", err)
		}
		Plan(x, []Seed{{nil, x}})
	})
}
