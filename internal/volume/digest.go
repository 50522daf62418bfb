package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// digestFile has the SHA-256 of a tree that is one file, in hex, as it was when the
// tree was made. A tree without one isn't known to be damaged.
const digestFile = "digest"

// metaDigestFile has the SHA-256 of the names and contents in meta/, in hex. It is
// compared whenever the metadata are used, as they are small.
const metaDigestFile = "meta.digest"

func writeMetaDigest(dir string) error {
	sum, err := metaDigest(dir)
	if err != nil {
		return err
	}
	// As lasting as the tree.
	return os.WriteFile(filepath.Join(dir, metaDigestFile), []byte(sum), 0o600)
}

func metaDigest(dir string) (string, error) {
	root, err := disk.OpenRoot(filepath.Join(dir, "meta"))
	if err != nil {
		return "", err
	}
	defer root.Close()
	h := sha256.New()
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v\n", path, e.Type())
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(h, f)
		fmt.Fprintf(h, "\n%d\n", n)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// verifyMeta compares the metadata of an image's tree with what they were when it was
// made. A tree that doesn't say so isn't known to be damaged. The error is Integrity, or
// another when they can't be read now.
func (p *Pool) verifyMeta(fp kiln.Fingerprint) error {
	dir := p.imageDir(fp)
	want, err := disk.ReadFile(filepath.Join(dir, metaDigestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	got := ""
	if err == nil {
		got, err = metaDigest(dir)
	}
	switch {
	case err == nil && got == strings.TrimSpace(string(want)):
		return nil
	case err == nil:
		err = fmt.Errorf("its SHA-256 is %s", got)
	case !lasting(err):
		return fmt.Errorf("read the metadata of the tree of image %s: %w", fp.Short(), err)
	}
	return kiln.Errorf(kiln.Integrity, "the metadata of the tree of image %s are damaged: %w", fp.Short(), err)
}

// treeFile gives the file that is the tree of an image; "" for one that is a directory.
func (p *Pool) treeFile(fp kiln.Fingerprint) (string, error) {
	r, err := p.imageRecord(fp)
	if err != nil || r.Kind == kindDir {
		return "", err
	}
	return filepath.Join(p.imageDir(fp), "rootfs."+r.Kind), nil
}

// writeDigest notes the digest of the tree that is in a directory.
func writeDigest(dir string) error {
	var f *os.File
	for _, kind := range []string{kindErofs, kindSquashfs} {
		var err error
		if f, err = disk.Open(filepath.Join(dir, "rootfs."+kind)); err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if f == nil {
		return nil // a directory
	}
	defer f.Close()
	sum, err := digest(context.Background(), f)
	if err != nil {
		return err
	}
	return disk.WriteBytes(filepath.Join(dir, digestFile), 0o600, []byte(sum))
}

func digest(ctx context.Context, f io.Reader) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// VerifyTree reads the tree of an image again and compares it with what it was when it
// was made. A tree that isn't there is no error. The error is Integrity.
func (p *Pool) VerifyTree(ctx context.Context, fp kiln.Fingerprint) error {
	if err := p.verifyMeta(fp); err != nil {
		return err
	}
	return p.verifyFile(ctx, fp)
}

// verifyFile is VerifyTree without the metadata.
func (p *Pool) verifyFile(ctx context.Context, fp kiln.Fingerprint) error {
	file, err := p.treeFile(fp)
	if errors.Is(err, kiln.NotFound) || file == "" {
		return nil
	}
	if err != nil {
		return err
	}
	dir, err := disk.OpenRoot(p.imageDir(fp)) // both files of one tree, though another takes its place
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	want, err := disk.ReadFileIn(dir, digestFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := disk.OpenFileIn(dir, filepath.Base(file), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := digest(ctx, f)
	if err != nil {
		return fmt.Errorf("read the tree of image %s: %w", fp.Short(), err)
	}
	if got != strings.TrimSpace(string(want)) {
		return kiln.Errorf(kiln.Integrity, "the tree of image %s is damaged: its SHA-256 is %s", fp.Short(), got)
	}
	return nil
}
