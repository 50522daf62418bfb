package delta

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/kiln-containers/kiln"
)

func patchOf(t testing.TB, base, target []byte) []byte {
	t.Helper()
	var p bytes.Buffer
	if err := MakePatch(context.Background(), section(base), section(target), &p); err != nil {
		t.Fatal(err)
	}
	return p.Bytes()
}

func applied(base []byte, patch io.Reader) ([]byte, error) {
	var out bytes.Buffer
	fp, err := ApplyPatch(context.Background(), section(base), patch, &out)
	if err == nil && fp != sha256.Sum256(out.Bytes()) {
		err = errors.New("the fingerprint is another")
	}
	return out.Bytes(), err
}

func TestPatch(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		t := rapidTB{t: rt}
		base, target := two(rt)
		p := patchOf(t, base, target)
		if got, err := applied(base, iotest.OneByteReader(bytes.NewReader(p))); err != nil || !bytes.Equal(got, target) {
			t.Fatal("something else: ", err)
		}
		// A frame that is new costs its record besides its bytes.
		if len(p) > len(target)+len(target)/25+500 {
			t.Fatal("the patch has ", len(p), " bytes for a file of ", len(target))
		}
	})
}

// TestPatchIsSmall, also for a tree that is in another order.
func TestPatchIsSmall(t *testing.T) {
	v1, v2 := sample(t)
	base, target := framed(t, v1, small), framed(t, v2, small)
	for name, c := range map[string]struct {
		base, target []byte
		most         int
	}{
		"the same": {base, base, 200},
		"changed":  {base, target, len(target) / 5},
		"back":     {target, base, len(base) / 10},
		"recut":    {framed(t, v1, Options{}), base, len(base) / 5},
	} {
		if p := patchOf(t, c.base, c.target); len(p) > c.most {
			t.Errorf("%s: %d bytes for a file of %d", name, len(p), len(c.target))
		} else if got, err := applied(c.base, bytes.NewReader(p)); err != nil || !bytes.Equal(got, c.target) {
			t.Errorf("%s: something else, %v", name, err)
		}
	}
}

// foreign gives a file as another encoder may have made it.
func foreign(t testing.TB, tar []byte, encoder string) []byte {
	t.Helper()
	c := newCutter(bytes.NewReader(tar), small)
	toc := TOC{Encoder: encoder, Options: small}
	var file []byte
	for {
		raw, err := c.next(nil)
		if errors.Is(err, io.EOF) {
			return append(file, toc.encode()...)
		}
		if err != nil {
			t.Fatal(err)
		}
		// A zstd frame with raw blocks: magic, single segment with 8 bytes of
		// size, then headers with last, type 0 and length (RFC 8878, 3.1.1).
		f := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
		f = binary.LittleEndian.AppendUint64(append(f, 0xE0), uint64(len(raw)))
		for rest := raw; len(rest) > 0; {
			n := min(len(rest), 1000)
			h := uint32(n << 3)
			if n == len(rest) {
				h |= 1
			}
			f = append(append(f, byte(h), byte(h>>8), byte(h>>16)), rest[:n]...)
			rest = rest[n:]
		}
		if err := toc.add(Frame{RawSize: len(raw), Size: len(f), Hash: sha256.Sum256(raw)}); err != nil {
			t.Fatal(err)
		}
		file = append(file, f...)
	}
}

// TestForeignEncoder: frames that don't come out equal are sent as they are.
func TestForeignEncoder(t *testing.T) {
	v1, v2 := sample(t)
	for _, encoder := range []string{"another", EncoderID} { // the second is a lie
		for name, c := range map[string][2][]byte{
			"target": {framed(t, v1, small), foreign(t, v2, encoder)},
			"base":   {foreign(t, v1, encoder), framed(t, v2, small)},
			"both":   {foreign(t, v1, encoder), foreign(t, v2, encoder)},
		} {
			p := patchOf(t, c[0], c[1])
			if got, err := applied(c[0], bytes.NewReader(p)); err != nil || !bytes.Equal(got, c[1]) {
				t.Errorf("%s of %s: %d bytes, %v", name, encoder, len(p), err)
			}
			if name != "target" && len(p) > len(c[1])/2 {
				t.Errorf("%s of %s: a patch of %d bytes for %d", name, encoder, len(p), len(c[1]))
			}
		}
	}
	p := patchOf(t, framed(t, v1, small), framed(t, v2, small))
	id := bytes.Index(p, []byte(EncoderID))
	p[id]++
	if _, err := applied(framed(t, v1, small), bytes.NewReader(p)); !errors.Is(err, kiln.Unsupported) {
		t.Errorf("units for another encoder: %v", err)
	}
}

// TestLargestFrame: other cutters may make longer frames.
func TestLargestFrame(t *testing.T) {
	raw := bytes.Repeat(randomBytes(3, 100<<10), maxFrame/(100<<10)+1)[:maxFrame]
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	var files [2][]byte
	for i := range files {
		raw[i*1000]++
		b := enc.EncodeAll(raw, nil)
		toc := TOC{Encoder: EncoderID, Options: small}
		if err := toc.add(Frame{RawSize: len(raw), Size: len(b), Hash: sha256.Sum256(raw)}); err != nil {
			t.Fatal(err)
		}
		files[i] = append(b, toc.encode()...)
	}
	p := patchOf(t, files[0], files[1])
	if got, err := applied(files[0], bytes.NewReader(p)); err != nil || !bytes.Equal(got, files[1]) {
		t.Error("something else: ", err)
	}
}

func TestNoPatch(t *testing.T) {
	v1, v2 := sample(t)
	a, b := framed(t, v1, small), framed(t, v2, small)
	for name, c := range map[string][2][]byte{"base": {v1, b}, "target": {a, v2}} {
		err := MakePatch(context.Background(), section(c[0]), section(c[1]), io.Discard)
		if !errors.Is(err, kiln.NotFound) {
			t.Errorf("the %s is a tar: %v", name, err)
		}
	}
	damaged := bytes.Clone(a)
	damaged[len(damaged)/2] ^= 1
	if err := MakePatch(context.Background(), section(damaged), section(b), io.Discard); err != nil {
		broken(t, "damaged base", err)
	}
	p := patchOf(t, a, b)
	if _, err := applied(damaged, bytes.NewReader(p)); !errors.Is(err, kiln.Integrity) {
		t.Errorf("applied to a damaged base: %v", err)
	}
	if _, err := applied(b, bytes.NewReader(p)); !errors.Is(err, kiln.Invalid) {
		t.Errorf("applied to another base: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := MakePatch(ctx, section(a), section(b), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := ApplyPatch(ctx, section(a), bytes.NewReader(p), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := ApplyPatch(context.Background(), section(a), bytes.NewReader(p),
		failing{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("nothing can be written: %v", err)
	}
}

// TestDamagedPatch changes bytes and cuts: no result but the right one passes.
func TestDamagedPatch(t *testing.T) {
	v1, v2 := sample(t)
	base, target := framed(t, v1[:60<<10], small), framed(t, v2[:64<<10], small)
	p := patchOf(t, base, target)
	for i := 0; i < len(p); i += 1 + i/60 { // all of the head
		bad := bytes.Clone(p)
		bad[i] ^= byte(1 + i%255)
		if got, err := applied(base, bytes.NewReader(bad)); err != nil {
			broken(t, "a byte is other", err)
		} else if !bytes.Equal(got, target) {
			t.Fatalf("byte %d of %d is other, and so is the result", i, len(p))
		}
		_, err := applied(base, bytes.NewReader(p[:i]))
		broken(t, "cut", err)
	}
	_, err := applied(base, bytes.NewReader(append(bytes.Clone(p), 0)))
	broken(t, "longer", err)
}

// TestLyingPatch builds patches that ask for too much.
func TestLyingPatch(t *testing.T) {
	v1, _ := sample(t)
	base := framed(t, v1, small)
	toc, err := ReadTOC(bytes.NewReader(base), int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	n, raw := len(toc.Frames), toc.RawSize()
	numbers := func(kind byte, list ...uint64) []byte {
		b := []byte{kind}
		for _, n := range list {
			b = binary.AppendUvarint(b, n)
		}
		return b
	}
	for name, steps := range map[string][]byte{
		"unknown step":         {9},
		"copy beyond the end":  numbers(stepCopy, uint64(n-1), 2),
		"copy from beyond":     numbers(stepCopy, uint64(n), 1),
		"too short":            append(numbers(stepCopy, 0, 1), stepEnd),
		"endless copy":         bytes.Repeat(numbers(stepCopy, 0, uint64(n)), 1000),
		"nothing":              {stepEnd},
		"many segments":        numbers(stepUnit, maxSegments+1),
		"segment beyond":       numbers(stepUnit, 1, uint64(raw), 1),
		"segment over the end": numbers(stepUnit, 1, uint64(raw-5), 6),
		"long segment":         numbers(stepUnit, 1, 0, 1<<63),
		"endless dictionaries": bytes.Repeat(numbers(stepUnit, 1, 0, uint64(raw), 0, 0), 1000),
		"huge unit":            numbers(stepUnit, 0, 1, maxUnit+1),
		"huge units":           numbers(stepUnit, 0, 2, maxUnit, 1),
		"empty frame":          numbers(stepUnit, 0, 1, 0),
		"huge blob":            numbers(stepUnit, 0, 1, 5, maxPacked+1),
		"no blob":              append(numbers(stepUnit, 0, 1, 5, 0), stepEnd),
		"huge literal":         numbers(stepLiteral, 5, maxPacked+1),
		"huge raw literal":     numbers(stepLiteral, maxFrame+1, 5),
		"long number":          append([]byte{stepCopy}, bytes.Repeat([]byte{0xff}, 20)...),
	} {
		h := patchHeader{base: toc.Hash(), size: int64(len(base)), toc: toc}
		_, err := applied(base, bytes.NewReader(append(h.encode(), steps...)))
		broken(t, name, err)
	}
	h := patchHeader{base: toc.Hash(), size: maxImage + 1, toc: toc}
	_, err = applied(base, bytes.NewReader(h.encode()))
	broken(t, "huge result", err)
}

func FuzzApplyPatch(f *testing.F) {
	v1, v2 := sample(f)
	base, target := framed(f, v1[:20<<10], small), framed(f, v2[:24<<10], small)
	toc, err := ReadTOC(bytes.NewReader(base), int64(len(base)))
	if err != nil {
		f.Fatal(err)
	}
	h := patchHeader{base: toc.Hash(), size: int64(len(target)), toc: toc}
	want := sha256.Sum256(target)
	h.result = want
	f.Add(patchOf(f, base, target))
	f.Add(patchOf(f, base, target)[len(h.encode()):])
	f.Add(patchOf(f, base, base)[len(h.encode()):])
	f.Fuzz(func(t *testing.T, b []byte) {
		p := b
		if !bytes.HasPrefix(b, []byte(patchMagic)) { // steps only
			p = append(h.encode(), b...)
		}
		got, err := applied(base, bufio.NewReader(bytes.NewReader(p)))
		if err != nil {
			broken(t, "fuzz", err)
		} else if sum := sha256.Sum256(got); sum != want && !bytes.Contains(p, sum[:]) {
			t.Error("another result than the patch names")
		}
	})
}

func BenchmarkMakePatch(b *testing.B) {
	v1 := debian(b)
	base, target := framed(b, v1, Options{}), framed(b, upgraded(v1), Options{})
	b.SetBytes(int64(len(target)))
	var p []byte
	for b.Loop() {
		p = patchOf(b, base, target)
	}
	b.ReportMetric(float64(len(p))/float64(len(target)), "ratio")
}

func BenchmarkApplyPatch(b *testing.B) {
	v1 := debian(b)
	base, target := framed(b, v1, Options{}), framed(b, upgraded(v1), Options{})
	p := patchOf(b, base, target)
	b.SetBytes(int64(len(target)))
	for b.Loop() {
		if _, err := ApplyPatch(context.Background(), section(base), bytes.NewReader(p), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
