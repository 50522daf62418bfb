package store

import (
	"errors"
	"io"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// twice is a stream that gives the tar of its file as well: the one is written after
// the other, so that both have to be read side by side.
type twice struct {
	broken
	tar []byte
	end error // of the tar
	w   *io.PipeWriter
}

func (s *twice) Tar() (*io.PipeReader, archive.Format) {
	r, w := io.Pipe()
	s.w = w
	return r, archive.Gzip
}

func (s *twice) Read(b []byte) (int, error) {
	if s.tar != nil {
		_, err := s.w.Write(s.tar)
		if err != nil {
			return 0, err
		}
		s.tar = nil
		s.w.CloseWithError(s.end)
	}
	return s.broken.Read(b)
}

// TestTarBeside imports from a stream that has the tar too: it is what is inspected,
// and what goes wrong on either side ends the import.
func TestTarBeside(t *testing.T) {
	tar := formattest.Unified(t)
	content := formattest.Compress(t, tar, "gzip")
	for _, test := range []struct {
		name string
		s    *twice
		want error
	}{
		{"good", &twice{broken: broken{content: content, cut: -1}, tar: tar}, nil},
		{"a bad tar", &twice{broken: broken{content: content, cut: -1}, tar: tar[:1000]}, kiln.Integrity},
		{"the file breaks off", &twice{broken: broken{content: content, cut: 10}, tar: tar}, kiln.Network},
		{"nothing comes of the tar", &twice{broken: broken{content: content, cut: 10}}, kiln.Network},
		{"the tar breaks off", &twice{broken: broken{content: content, cut: -1}, tar: tar[:1000],
			end: kiln.Errorf(kiln.NoSpace, "full")}, kiln.NoSpace},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _, err := openDir(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			test.s.file = kiln.File{Role: kiln.Unified, Size: -1}
			img, err := s.Put(t.Context(), kiln.Image{}, test.s)
			if !errors.Is(err, test.want) {
				t.Fatalf("Put gives %v, want %v", err, test.want)
			}
			if err == nil && (img.Fingerprint != sumOf(content) || img.Files[0].Ext != ".tar.gz") {
				t.Errorf("Put makes %s with %q", img.Fingerprint, img.Files[0].Ext)
			}
		})
	}
}
