package blob

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Resume starts a blob whose hash is known, or goes on with what Close kept of it:
// Have tells how much that is, and all of it must be read again with Reread before
// the first Write, since nothing is trusted that wasn't hashed. While somebody else
// writes the same blob it is Create. The error is NoSpace when it can't fit.
func (d *Dir) Resume(fp kiln.Fingerprint, size int64) (*Writer, error) {
	f, err := disk.OpenFile(d.partialPath(fp), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return d.Create(size)
	}
	w := &Writer{dir: d, f: f, hash: sha256.New(), partial: true}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if w.have = fi.Size(); size >= 0 && w.have > size {
		w.have = 0
		err = f.Truncate(0)
	}
	if err := errors.Join(err, d.fits(size-w.have)); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (d *Dir) partialPath(fp kiln.Fingerprint) string {
	return filepath.Join(d.path, "partial", fp.String())
}

// Partial tells how many bytes of a blob Resume would find.
func (d *Dir) Partial(fp kiln.Fingerprint) int64 {
	fi, err := os.Stat(d.partialPath(fp))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// Have is how many bytes are there from before that Reread didn't give yet.
func (w *Writer) Have() int64 { return w.have }

// Reread reads, and hashes, what is there from before; io.EOF after the last.
func (w *Writer) Reread(b []byte) (int, error) {
	if w.have == 0 {
		return 0, io.EOF
	}
	n, err := w.f.Read(b[:min(int64(len(b)), w.have)])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	w.hash.Write(b[:n])
	w.size += int64(n)
	w.have -= int64(n)
	return n, err
}

// Discard makes Close throw away what Resume could go on with: it is wrong.
func (w *Writer) Discard() { w.partial = false }

// SweepPartial removes what nobody went on with for some time.
func (d *Dir) SweepPartial(older time.Duration) error {
	entries, err := os.ReadDir(filepath.Join(d.path, "partial"))
	errs := []error{err}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || time.Since(fi.ModTime()) < older {
			continue // gone meanwhile, or still of use
		}
		if err := d.removePartial(filepath.Join(d.path, "partial", e.Name())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removePartial removes a partial file unless somebody writes it.
func (d *Dir) removePartial(path string) error {
	f, err := disk.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return os.Remove(path)
}
