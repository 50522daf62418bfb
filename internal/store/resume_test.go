package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// broken is a stream of one file that breaks off, and can be begun later.
type broken struct {
	file    kiln.File
	content []byte
	cut     int // bytes after which it breaks off; -1: never
	at      int
	next    bool
	skips   bool
}

func (s *broken) Next() (kiln.File, error) {
	if s.next {
		return kiln.File{}, io.EOF
	}
	s.next = true
	return s.file, nil
}

func (s *broken) Read(b []byte) (int, error) {
	rest := s.content[s.at:]
	if s.cut >= 0 {
		rest = s.content[s.at:max(s.cut, s.at)]
	}
	n := copy(b, rest)
	s.at += n
	switch {
	case n > 0:
		return n, nil
	case s.cut >= 0:
		return 0, kiln.Errorf(kiln.Network, "the connection was cut")
	}
	return 0, io.EOF
}

func (s *broken) CanSkip() bool      { return s.skips }
func (s *broken) Skip(n int64) error { s.at = int(n); return nil }
func (s *broken) Close() error       { return nil }

// TestGoesOn cuts an import off and goes on with it, in another store on the same
// directory as after a crash.
func TestGoesOn(t *testing.T) {
	dir := t.TempDir()
	content := formattest.Compress(t, formattest.Unified(t), "gzip")
	file := kiln.File{Role: kiln.Unified, Size: int64(len(content)), Hash: sumOf(content)}
	img := kiln.Image{Fingerprint: file.Hash}
	half := len(content) / 2
	s, d, err := openDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), img,
		&broken{file: file, content: content, cut: half, skips: true}); !errors.Is(err, kiln.Network) {
		t.Fatalf("cut: %v", err)
	}
	d.Close()
	s = open(t, dir)
	if n := s.blobs.Partial(file.Hash); n != int64(half) {
		t.Fatalf("%d bytes are kept of %d", n, half)
	}
	// One that can't begin later reads all of it, and leaves the other alone.
	if _, err := s.Put(t.Context(), img,
		&broken{file: file, content: content, cut: 10, skips: false}); !errors.Is(err, kiln.Network) {
		t.Fatalf("cut again: %v", err)
	}
	rest := &broken{file: file, content: content, cut: -1, skips: true}
	clear(content[:half]) // nobody may look there again
	got, err := s.Put(t.Context(), img, rest)
	if err != nil || got.Fingerprint != file.Hash || s.blobs.Partial(file.Hash) != 0 {
		t.Fatalf("%s, %v", got.Fingerprint, err)
	}
	if err := s.Verify(t.Context(), got.Fingerprint); err != nil {
		t.Error(err)
	}
}

// TestGoesOnWithAnother has a partial file that is the beginning of something else:
// that is found out, and the next attempt begins anew.
func TestGoesOnWithAnother(t *testing.T) {
	s := open(t, t.TempDir())
	content := formattest.Unified(t)
	file := kiln.File{Role: kiln.Unified, Size: int64(len(content)), Hash: sumOf(content)}
	wrong := bytes.Clone(content)
	wrong[len(wrong)-1]++ // in the padding at the end, where no archive looks
	w, err := s.blobs.Resume(file.Hash, file.Size)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(wrong[len(wrong)-600:])
	w.Close()
	put := func() error {
		_, err := s.Put(t.Context(), kiln.Image{Fingerprint: file.Hash}, &broken{file: file, content: content, cut: -1,
			skips: true})
		return err
	}
	if err := put(); err == nil {
		t.Fatal("a file with another beginning passes")
	}
	if err := put(); err != nil {
		t.Errorf("after that: %v", err)
	}
	if entries, _ := os.ReadDir(s.blobs.Path(file.Hash) + "/../../../partial"); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}
