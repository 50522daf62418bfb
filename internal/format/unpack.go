package format

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// A located stream knows where its current file is: formats that need seeking
// are read there.
type located interface{ Path() string }

// Unpack takes an image apart: the root filesystem goes to rootfs, metadata.yaml
// and the templates go to meta. rootfs may be nil when only the rest is wanted.
func Unpack(ctx context.Context, s kiln.Stream, lim archive.Limits, rootfs, meta archive.TreeWriter) error {
	for {
		file, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if file.Role == kiln.Rootfs && rootfs == nil {
			continue
		}
		if err := unpackFile(ctx, s, file.Role, lim, rootfs, meta); err != nil {
			return fmt.Errorf("unpack the %s file of the image: %w", file.Role, err)
		}
	}
}

func unpackFile(ctx context.Context, s kiln.Stream, role kiln.Role, lim archive.Limits, rootfs,
	meta archive.TreeWriter) error {
	files, err := openStream(ctx, s, lim.Visit)
	if err != nil {
		return err
	}
	defer files.Close()
	return archive.Walk(ctx, files, lim, func(e *archive.Entry, r io.Reader) error {
		switch {
		case role == kiln.Rootfs:
			return rootfs.Add(e, r)
		case e.Path == "metadata.yaml" && e.Type == archive.Regular,
			e.Path == "templates" && e.Type == archive.Dir, isTemplate(e):
			return meta.Add(e, r)
		case role == kiln.Unified && rootfs != nil && e.Path == "rootfs":
			if e.Type != archive.Dir {
				return nil // a directory takes its place later on
			}
			e.Path = "."
			return rootfs.Add(e, r)
		case role == kiln.Unified && rootfs != nil && strings.HasPrefix(e.Path, prefix):
			return addBelow(e, r, rootfs)
		}
		return nil
	})
}

// isTemplate tells what is kept of templates/.
func isTemplate(e *archive.Entry) bool {
	return strings.HasPrefix(e.Path, templates) &&
		(e.Type == archive.Regular || e.Type == archive.Dir || e.Type == archive.Hardlink && e.Links == archive.Regular)
}

const templates = "templates/"

// checkLink refuses hard links that leave a tree which is unpacked by itself.
func checkLink(e *archive.Entry) error {
	if e.Type != archive.Hardlink {
		return nil
	}
	for _, tree := range []string{prefix, templates} {
		if strings.HasPrefix(e.Path, tree) && !strings.HasPrefix(e.Link, tree) {
			return kiln.Errorf(kiln.Invalid, "entry %q: hard link to %q, outside of %s", e.Path, e.Link, tree)
		}
	}
	return nil
}

// addBelow takes "rootfs/" off an entry.
func addBelow(e *archive.Entry, r io.Reader, rootfs archive.TreeWriter) error {
	if err := checkLink(e); err != nil {
		return err
	}
	e.Path = strings.TrimPrefix(e.Path, prefix)
	if e.Type == archive.Hardlink {
		e.Link = strings.TrimPrefix(e.Link, prefix)
	}
	return rootfs.Add(e, r)
}

// openStream gives the current file of a stream as a tar stream.
func openStream(ctx context.Context, s kiln.Stream, visit *archive.Visit) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(s, archive.HeadSize)
	head, err := in.Peek(archive.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	kind, err := archive.Detect(head)
	if err != nil {
		return nil, err
	}
	if kind != archive.Squashfs {
		r, _, err := archive.Decompress(ctx, in, visit)
		return r, err
	}
	l, ok := s.(located)
	if !ok {
		return nil, kiln.Errorf(kiln.Internal, "a squashfs can only be read from a file")
	}
	f, err := os.Open(l.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return archive.SquashfsTar(ctx, f, visit)
}

// Hash gives the fingerprint that one or two files have as an image, in either
// order. Errors: Invalid.
func Hash(ctx context.Context, paths ...string) (kiln.Fingerprint, error) {
	facts := make([]Facts, len(paths))
	for i, p := range paths {
		err := withFile(p, func(f *os.File) (err error) {
			facts[i], err = Inspect(ctx, f, f, archive.Limits{})
			return err
		})
		if err != nil {
			return kiln.Fingerprint{}, fmt.Errorf("%s: %w", p, err)
		}
	}
	l, err := Arrange(facts)
	if err != nil {
		return kiln.Fingerprint{}, err
	}
	if l.Swapped() {
		paths[0], paths[1] = paths[1], paths[0]
	}
	h := sha256.New()
	h.Write(l.Synthesised)
	for _, p := range paths {
		if err := withFile(p, func(f *os.File) error { _, err := io.Copy(h, f); return err }); err != nil {
			return kiln.Fingerprint{}, err
		}
	}
	return kiln.Fingerprint(h.Sum(nil)), nil
}

func withFile(path string, fn func(*os.File) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(f)
}
