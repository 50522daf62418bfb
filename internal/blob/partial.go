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
	f, err := openPartial(d.partialPath(fp), os.O_CREATE)
	if errors.Is(err, errInUse) {
		return d.Create(size)
	}
	if err != nil {
		return nil, err
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

// errInUse says that somebody else writes a partial file, or just did.
var errInUse = errors.New("the partial file is in use")

// openPartial opens a partial file that nobody else writes, and keeps others from it until
// it is closed. Between the opening and the lock its writer may have committed it: then it is a
// blob, which nobody may write, and the path is another's. That is errInUse as well.
func openPartial(path string, flags int) (*os.File, error) {
	f, err := disk.OpenFile(path, os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil, errors.Join(errInUse, f.Close())
	}
	opened, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Who has the lock of what the path names is the only one to move or remove it.
	if named, err := os.Lstat(path); err != nil || !os.SameFile(opened, named) {
		return nil, errors.Join(errInUse, f.Close())
	}
	return f, nil
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
		err := removePartial(filepath.Join(d.path, "partial", e.Name()), older)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errInUse) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removePartial removes a partial file that nobody went on with for some time.
func removePartial(path string, older time.Duration) error {
	f, err := openPartial(path, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || time.Since(fi.ModTime()) < older {
		return err
	}
	return os.Remove(path)
}
