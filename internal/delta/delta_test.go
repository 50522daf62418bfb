package delta

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// small cuts even little tars into several frames.
var small = Options{Average: 4 << 10, Threshold: 4 << 10}

// A file is a member of a tar for tests.
type file struct {
	name string
	body []byte
	time int64
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefgh  \n"[r.IntN(11)] // something to compress
	}
	return b
}

func randomTree(t *rapid.T) []file {
	var list []file
	for i := range rapid.IntRange(1, 30).Draw(t, "files") {
		list = append(list, randomFile(t, i))
	}
	return list
}

func randomFile(t *rapid.T, i int) file {
	name := fmt.Sprintf("dir%d/file%03d", i%3, i)
	if rapid.IntRange(0, 9).Draw(t, "long") == 0 {
		name += fmt.Sprintf("%0120d", i) // needs an extension header
	}
	n := rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(0, 60000)).Draw(t, "size")
	return file{name, randomBytes(rapid.Uint64().Draw(t, "seed"), n), int64(rapid.IntRange(0, 1<<30).Draw(t, "time"))}
}

// edited gives a tree with changes: of contents, of times, new and gone files.
func edited(t *rapid.T, tree []file) []file {
	var list []file
	for i, f := range tree {
		switch rapid.IntRange(0, 9).Draw(t, "edit") {
		case 0:
			continue
		case 1:
			f.time++
		case 2:
			at := rapid.IntRange(0, len(f.body)).Draw(t, "at")
			f.body = slices.Concat(f.body[:at], []byte("something new"), f.body[at:])
		case 3:
			list = append(list, randomFile(t, 1000+i))
		}
		list = append(list, f)
	}
	return list
}

func pack(t testing.TB, tree []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range tree {
		h := &tar.Header{Name: f.name, Size: int64(len(f.body)), Mode: 0o644, ModTime: time.Unix(f.time, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rapidTB gives rapid's T where a testing.TB is wanted.
type rapidTB struct {
	testing.TB
	t *rapid.T
}

func (r rapidTB) Helper()           {}
func (r rapidTB) Fatal(args ...any) { r.t.Fatal(args...) }

// two gives a framed file and one with changes.
func two(t *rapid.T) (base, target []byte) {
	tree := randomTree(t)
	tb := rapidTB{t: t}
	return framed(tb, pack(tb, tree), small), framed(tb, pack(tb, edited(t, tree)), small)
}

func framed(t testing.TB, tar []byte, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Compress(context.Background(), &b, bytes.NewReader(tar), o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func index(t testing.TB, b []byte) Index {
	t.Helper()
	x, err := BuildIndex(context.Background(), bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// sample gives a tree of 60 files, the same each time, and a changed one.
func sample(t testing.TB) (v1, v2 []byte) {
	t.Helper()
	var a, b []file
	for i := range 60 {
		f := file{fmt.Sprintf("usr/lib/f%02d", i), randomBytes(uint64(i), 500+i*i*5), 1e9}
		a = append(a, f)
		if i%7 == 3 {
			f.time++
		}
		if i%11 == 5 {
			f.body = slices.Concat(f.body[:99], []byte("changed"), f.body[99:])
		}
		b = append(b, f)
	}
	return pack(t, a), pack(t, append(b, file{"usr/new", randomBytes(99, 30000), 1e9}))
}

// broken checks the kind of an error for input that can't be right.
func broken(t *testing.T, what string, err error) {
	t.Helper()
	switch kiln.KindOf(err) {
	case kiln.Integrity, kiln.Invalid, kiln.NotFound, kiln.TooLarge, kiln.Unsupported:
	default:
		t.Errorf("%s: %v", what, err)
	}
}

// debian gives a Debian tree as a tar.
func debian(b *testing.B) []byte {
	b.Helper()
	data, err := os.ReadFile(formattest.Debian(b))
	if err != nil {
		b.Fatal(err)
	}
	return data
}
