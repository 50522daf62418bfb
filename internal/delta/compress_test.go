package delta

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/kiln-containers/kiln"
)

func decode(t testing.TB, b []byte) []byte {
	t.Helper()
	r, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCompress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tb := rapidTB{t: t}
		in := pack(tb, randomTree(t))
		b := framed(tb, in, small)
		if !bytes.Equal(decode(tb, b), in) {
			t.Fatal("it decodes to something else")
		}
		toc, err := ReadTOC(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := newFrameReader(bytes.NewReader(b), toc)
		if err != nil {
			t.Fatal(err)
		}
		var raw []byte
		for i := range toc.Frames {
			if raw, err = r.raw(raw, i); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(raw, in) || toc.RawSize() != int64(len(in)) {
			t.Fatal("the frames are something else")
		}
	})
}

// TestAnyInput compresses what is no tar, or not a whole one.
func TestAnyInput(t *testing.T) {
	v1, _ := sample(t)
	huge := bytes.Clone(v1[:block]) // a content of some petabytes
	copy(huge[124:], "\x80\x00\x00\x00\x00\x03\xff\xff\xff\xff\xff\x00")
	sum := checksum(huge)
	copy(huge[148:], []byte{'0', byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7),
		byte('0' + sum&7), 0, ' '})
	for name, in := range map[string][]byte{
		"one byte": {1}, "text": randomBytes(1, 300000), "zeros": make([]byte, 100000), "odd": v1[100:],
		"cut in a content": v1[:len(v1)-20000], "cut in a header": v1[:700], "huge": append(huge, v1...),
	} {
		if !bytes.Equal(decode(t, framed(t, in, small)), in) {
			t.Errorf("%s: it decodes to something else", name)
		}
	}
	_, err := Compress(context.Background(), io.Discard, bytes.NewReader(nil), Options{})
	if !errors.Is(err, kiln.Invalid) {
		t.Errorf("nothing: %v", err)
	}
	for _, o := range []Options{{Average: 5000}, {Average: -1}, {Average: 2 << 20}, {Threshold: 1}, {Threshold: 2 << 20}} {
		if _, err := Compress(context.Background(), io.Discard, bytes.NewReader(v1), o); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestDeterminism compresses the same with other numbers of cores and sizes of reads.
func TestDeterminism(t *testing.T) {
	v1, _ := sample(t)
	want := framed(t, v1, small)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for n, readers := range map[int]map[string]func(io.Reader) io.Reader{
		1: {"bytes": iotest.OneByteReader},
		2: {"half": iotest.HalfReader},
		4: {"half": iotest.HalfReader, "error with data": iotest.DataErrReader},
	} {
		runtime.GOMAXPROCS(n)
		for name, reader := range readers {
			r := reader(bytes.NewReader(v1))
			var b bytes.Buffer
			if _, err := Compress(context.Background(), &b, r, small); err != nil || !bytes.Equal(b.Bytes(), want) {
				t.Errorf("%d cores, %s: something else, %v", n, name, err)
			}
		}
	}
}

// TestEncoderIsFrozen: if it fails, the library compresses differently. Then the
// encoder's name has to change, or patches to older files will not come out.
func TestEncoderIsFrozen(t *testing.T) {
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	enc.EncodeAll(randomBytes(7, 3<<20), nil) // what came before has no influence
	h := sha256.New()
	for i := range 8 {
		in := randomBytes(uint64(i), 1<<(2*i+7))
		for j := 1000; j < len(in); j += 1 + j/3 { // some repetition
			copy(in[j:], in[:j/2])
		}
		h.Write(enc.EncodeAll(in, []byte("appended to this")))
	}
	const want = "9b9823b93a4aace8318e35f0c9bc50c4442493cc22fac05ba83f0e89fdbcbe24"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("%s makes %s and not %s", EncoderID, got, want)
	}
}

// TestPrograms reads a file with the tools that others have.
func TestPrograms(t *testing.T) {
	v1, _ := sample(t)
	name := filepath.Join(t.TempDir(), "image.tar.zst")
	if err := os.WriteFile(name, framed(t, v1, small), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"zstd", "-q", "-t", name}, {"zstd", "-q", "-dc", name},
		{"tar", "--zstd", "-tf", name}} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skip(err)
		}
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if args[2] == "-dc" && !bytes.Equal(out, v1) {
			t.Error("zstd decodes it to something else")
		}
	}
}

// TestChangesStayLocal: a change costs the frames around it.
func TestChangesStayLocal(t *testing.T) {
	v1, v2 := sample(t)
	a, b := framed(t, v1, small), framed(t, v2, small)
	st := Plan(index(t, b), []Seed{{bytes.NewReader(a), index(t, a)}})
	if st.Reused < st.Fetched {
		t.Errorf("of %d bytes only %d are found again", len(b), st.Reused)
	}
}

func TestCompressStops(t *testing.T) {
	v1, _ := sample(t)
	wrong := errors.New("wrong")
	_, err := Compress(context.Background(), io.Discard, io.MultiReader(bytes.NewReader(v1), iotest.ErrReader(wrong)),
		small)
	if !errors.Is(err, wrong) {
		t.Errorf("broken reader: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Compress(ctx, io.Discard, bytes.NewReader(v1), small); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Compress(context.Background(), failing{}, bytes.NewReader(v1), small); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken writer: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestParseHeader compares with the standard library's writer.
func TestParseHeader(t *testing.T) {
	for _, h := range []*tar.Header{
		{Name: "a", Size: 5, Typeflag: tar.TypeReg},
		{Name: "dir/", Typeflag: tar.TypeDir},
		{Name: "link", Linkname: "a", Typeflag: tar.TypeSymlink},
		{Name: "long", Size: 1 << 34, Typeflag: tar.TypeReg, Format: tar.FormatGNU},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		got, ok := parseHeader(b.Bytes())
		if want := (h.Size + 511) &^ 511; !ok || got.size != want || got.extends {
			t.Errorf("%s: %+v, %v", h.Name, got, ok)
		}
	}
	if _, ok := parseHeader(make([]byte, block)); ok {
		t.Error("zeros are a header")
	}
}
