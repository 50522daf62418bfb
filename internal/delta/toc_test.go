package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"reflect"
	"testing"

	"github.com/kiln-containers/kiln"
)

func TestReadTOC(t *testing.T) {
	v1, _ := sample(t)
	var b bytes.Buffer
	want, err := Compress(context.Background(), &b, bytes.NewReader(v1[:100<<10]), small)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadTOC(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || !reflect.DeepEqual(got, want) || got.Hash() != want.Hash() {
		t.Errorf("%+v, %v", got, err)
	}
	if len(want.Frames) < 10 || want.Encoder != EncoderID || want.Options != small {
		t.Errorf("%d frames by %q with %+v", len(want.Frames), want.Encoder, want.Options)
	}
	for i := range b.Len() - int(want.end()) { // each byte of the table
		bad := bytes.Clone(b.Bytes())
		bad[int(want.end())+i] ^= 1
		_, err := ReadTOC(bytes.NewReader(bad), int64(len(bad)))
		broken(t, "a byte is other", err)
	}
	if _, err := ReadTOC(bytes.NewReader(v1), int64(len(v1))); !errors.Is(err, kiln.NotFound) {
		t.Errorf("a tar: %v", err)
	}
	if _, err := ReadTOC(bytes.NewReader(nil), 0); !errors.Is(err, kiln.NotFound) {
		t.Errorf("nothing: %v", err)
	}
	_, err = ReadTOC(bytes.NewReader(b.Bytes()), int64(b.Len())+1) // it became shorter
	broken(t, "a size beyond the end", err)
}

// TestLyingTOC makes tables that hash to what they say and still are wrong.
func TestLyingTOC(t *testing.T) {
	v1, _ := sample(t)
	b := framed(t, v1, small)
	toc, err := ReadTOC(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*TOC){
		"size":         func(t *TOC) { t.Frames[3].Size++ },
		"less size":    func(t *TOC) { t.Frames[3].Size-- },
		"no size":      func(t *TOC) { t.Frames[3].Size = 0 },
		"huge size":    func(t *TOC) { t.Frames[3].Size = -1 },
		"huge frame":   func(t *TOC) { t.Frames[3].RawSize = maxFrame + 1 },
		"empty frame":  func(t *TOC) { t.Frames[3].RawSize = 0 },
		"frame gone":   func(t *TOC) { t.Frames = t.Frames[1:] },
		"frame twice":  func(t *TOC) { t.Frames = append(t.Frames, t.Frames[0]) },
		"no frames":    func(t *TOC) { t.Frames = nil },
		"no encoder":   func(t *TOC) { t.Encoder = "" },
		"odd encoder":  func(t *TOC) { t.Encoder = "a\nb" },
		"long encoder": func(t *TOC) { t.Encoder = string(make([]byte, 65)) },
		"average":      func(t *TOC) { t.Average = 0 },
		"threshold":    func(t *TOC) { t.Threshold = 1 << 30 },
	} {
		bad := toc
		bad.Frames = append([]Frame{}, toc.Frames...)
		lie(&bad)
		file := append(bytes.Clone(b[:toc.end()]), bad.encode()...)
		_, err := ReadTOC(bytes.NewReader(file), int64(len(file)))
		broken(t, name, err)
		if x := index(t, file); x.Whole != sha256.Sum256(file) { // it is a file all the same
			t.Errorf("%s: the index is of another file", name)
		}
	}
}

// TestLyingFrames: these lies show when a frame is read.
func TestLyingFrames(t *testing.T) {
	v1, _ := sample(t)
	b := framed(t, v1, small)
	toc, err := ReadTOC(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*TOC){
		"uncompressed":      func(t *TOC) { t.Frames[0].RawSize++ },
		"less uncompressed": func(t *TOC) { t.Frames[0].RawSize-- },
		"hash":              func(t *TOC) { t.Frames[0].Hash[5]++ },
		"moved":             func(t *TOC) { t.Frames[0].Size++; t.Frames[1].Size-- },
		"swapped": func(t *TOC) {
			t.Frames[0], t.Frames[1] = t.Frames[1], t.Frames[0]
			t.Frames[0].Offset, t.Frames[1].Offset = 0, int64(t.Frames[0].Size)
		},
	} {
		bad := toc
		bad.Frames = append([]Frame{}, toc.Frames...)
		lie(&bad)
		file := append(bytes.Clone(b[:toc.end()]), bad.encode()...)
		got, err := ReadTOC(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r, err := newFrameReader(bytes.NewReader(file), got)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.raw(nil, 0); !errors.Is(err, kiln.Integrity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadTOC(f *testing.F) {
	v1, _ := sample(f)
	b := framed(f, v1[:8<<10], small)
	f.Add(b)
	f.Add(b[len(b)-200:])
	f.Fuzz(func(t *testing.T, b []byte) {
		toc, err := ReadTOC(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			broken(t, "fuzz", err)
			return
		}
		if !bytes.HasSuffix(b, toc.encode()) || toc.end()+int64(len(toc.encode())) != int64(len(b)) {
			t.Error("the table is written in another way than it was read")
		}
	})
}
