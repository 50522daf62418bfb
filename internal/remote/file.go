// Package remote has the places that images come from, one file each behind the
// one interface kiln.Source. It doesn't know where they go.
package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format"
)

// Files is an image in local files: one or two, in either order, or a directory,
// which is packed while it is read.
type Files struct{ Paths []string }

// Find looks whether the files can be read. name is not used: the files are what
// they are. Errors: Invalid, NotFound.
func (s Files) Find(context.Context, string) (kiln.Image, error) {
	if len(s.Paths) < 1 || len(s.Paths) > 2 {
		return kiln.Image{}, kiln.Errorf(kiln.Invalid, "an image has one or two files, not %d", len(s.Paths))
	}
	for _, p := range s.Paths {
		fi, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return kiln.Image{}, kiln.Errorf(kiln.NotFound, "no file %q", p)
		case err != nil:
			return kiln.Image{}, err
		case fi.IsDir() && len(s.Paths) == 2:
			return kiln.Image{}, kiln.Errorf(kiln.Invalid, "%q is a directory; give either a directory or the files of an image",
				p)
		case !fi.IsDir() && !fi.Mode().IsRegular():
			return kiln.Image{}, kiln.Errorf(kiln.Invalid, "%q is neither a file nor a directory", p)
		}
	}
	return kiln.Image{Filename: filepath.Base(s.Paths[len(s.Paths)-1])}, nil
}

// Open reads the files, the metadata of a split image first.
func (s Files) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	if _, err := s.Find(ctx, ""); err != nil {
		return nil, err
	}
	if fi, err := os.Stat(s.Paths[0]); err == nil && fi.IsDir() {
		return packDir(ctx, s.Paths[0])
	}
	paths := s.Paths
	if len(paths) == 2 {
		if first, err := hasMetadata(ctx, paths[1]); err != nil {
			return nil, err
		} else if first {
			paths = []string{paths[1], paths[0]}
		}
	}
	return &fileStream{paths: paths, split: len(paths) == 2}, nil
}

// hasMetadata reports whether a file is the metadata file of a split image: those
// are small, so that only small ones have to be looked through.
func hasMetadata(ctx context.Context, path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	const large = 16 << 20
	if fi, err := f.Stat(); err != nil || fi.Size() > large {
		return false, err
	}
	facts, err := format.Inspect(ctx, f, f, archive.Limits{Bytes: 16 * large})
	switch kiln.KindOf(err) {
	case kiln.Invalid, kiln.Integrity, kiln.TooLarge:
		return false, nil // whoever reads it will say what is wrong with it
	}
	return facts.Metadata != nil && !facts.Rootfs, err
}

type fileStream struct {
	paths []string
	split bool
	f     *os.File
}

// Next is kiln.Stream's.
func (s *fileStream) Next() (kiln.File, error) {
	if err := s.Close(); err != nil {
		return kiln.File{}, err
	}
	if len(s.paths) == 0 {
		return kiln.File{}, io.EOF
	}
	role := kiln.Role("")
	if s.split {
		role = [...]kiln.Role{1: kiln.Rootfs, 2: kiln.Metadata}[len(s.paths)]
	}
	f, err := os.Open(s.paths[0])
	if err != nil {
		return kiln.File{}, err
	}
	s.f, s.paths = f, s.paths[1:]
	fi, err := f.Stat()
	if err != nil {
		return kiln.File{}, err
	}
	return kiln.File{Role: role, Name: fi.Name(), Size: fi.Size()}, nil
}

// Read is kiln.Stream's.
func (s *fileStream) Read(b []byte) (int, error) {
	if s.f == nil {
		return 0, io.EOF
	}
	return s.f.Read(b)
}

// Path names the current file.
func (s *fileStream) Path() string { return s.f.Name() }

// Close is kiln.Stream's.
func (s *fileStream) Close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}

// packStream packs a directory while it is read.
type packStream struct {
	*io.PipeReader
	name string
	done chan struct{}
	read bool
}

func packDir(ctx context.Context, dir string) (kiln.Stream, error) {
	r, w := io.Pipe()
	s := &packStream{PipeReader: r, name: filepath.Base(filepath.Clean(dir)) + ".tar", done: make(chan struct{})}
	go func() {
		defer close(s.done)
		out := bufio.NewWriterSize(w, 1<<20)
		err := archive.Pack(ctx, dir, out)
		w.CloseWithError(errors.Join(err, out.Flush()))
	}()
	return s, nil
}

// Next is kiln.Stream's.
func (s *packStream) Next() (kiln.File, error) {
	if s.read {
		return kiln.File{}, io.EOF
	}
	s.read = true
	return kiln.File{Name: s.name, Size: -1}, nil
}

// Close is kiln.Stream's.
func (s *packStream) Close() error {
	err := s.PipeReader.Close()
	<-s.done
	if err != nil {
		return fmt.Errorf("pack a directory: %w", err)
	}
	return nil
}
