// Package blob keeps whole files under their own SHA-256. A blob is there whole
// or not at all, and never changes. The package doesn't know what the bytes mean
// nor who needs them.
package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A Dir is a store of blobs in a local directory: sha256/ab/<64 digits>, and
// beside it, on the same file system, tmp/ for what is being written, partial/ for
// what was begun and can be gone on with, and lost/ for what nobody needed.
type Dir struct{ path string }

// Open makes the directory if it isn't there.
func Open(path string) (*Dir, error) {
	if err := disk.OwnDirs(path, 0o700, "tmp", "partial", "lost", "sha256"); err != nil {
		return nil, err
	}
	return &Dir{path}, nil
}

// tempPrefix begins the names of what is being written.
const tempPrefix = "blob-"

// Path is where a blob is, for who has to name it to the kernel. Nobody writes there.
func (d *Dir) Path(fp kiln.Fingerprint) string {
	s := fp.String()
	return filepath.Join(d.path, "sha256", s[:2], s)
}

// headroom is how many bytes blobs leave free, or a sixteenth of a small file system:
// so that the rest of a daemon can go on, also with deleting.
const headroom = 32 << 20

// Free tells how many bytes the file system has left for blobs.
func (d *Dir) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return 0, err
	}
	keep := min(headroom, int64(st.Blocks)*st.Bsize/16)
	return max(0, int64(st.Bavail)*st.Bsize-keep), nil
}

// A Writer takes the bytes of one blob.
type Writer struct {
	dir     *Dir
	f       *os.File
	hash    hash.Hash
	size    int64
	pushed  int64 // of size, on their way to the disk
	have    int64 // of a partial file, not read again yet
	partial bool
	done    bool // committed: the temporary name is not ours any more
	again   bool // committed, and the blob was there before
}

// Create starts a blob of size bytes, -1 if that isn't known. The error is
// NoSpace when it can't fit.
func (d *Dir) Create(size int64) (*Writer, error) {
	if err := d.fits(size); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Join(d.path, "tmp"), tempPrefix)
	if err != nil {
		return nil, err
	}
	return &Writer{dir: d, f: f, hash: sha256.New()}, nil
}

// fits says NoSpace when there is no room for some bytes.
func (d *Dir) fits(need int64) error {
	if need <= 0 {
		return nil
	}
	free, err := d.Free()
	if err != nil || need <= free {
		return err
	}
	return kiln.Errorf(kiln.NoSpace, "need %s, %s free in %s", kiln.FormatSize(need), kiln.FormatSize(free), d.path)
}

// Write hashes and writes. The error is NoSpace when the disk is full.
func (w *Writer) Write(b []byte) (int, error) {
	if w.size-w.pushed+int64(len(b)) >= pushStep {
		if err := w.dir.fits(int64(len(b))); err != nil {
			return 0, err
		}
	}
	n, err := w.f.Write(b)
	w.hash.Write(b[:n])
	w.size += int64(n)
	w.push()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		free, _ := w.dir.Free()
		return n, kiln.Errorf(kiln.NoSpace, "no space left after %s: need more than that, %s free in %s",
			kiln.FormatSize(w.size), kiln.FormatSize(free), w.dir.path)
	}
	return n, err
}

// pushStep is how many bytes are written before the disk is told to begin, and before
// its room is looked at again.
const pushStep = 8 << 20

// push has the disk begin before Commit waits for it.
func (w *Writer) push() {
	if n := w.size - w.pushed; n >= pushStep {
		// An optimisation: errors come again with Sync.
		_ = unix.SyncFileRange(int(w.f.Fd()), w.pushed, n, unix.SYNC_FILE_RANGE_WRITE)
		w.pushed = w.size
	}
}

// File is what was written so far, for reading only.
func (w *Writer) File() *os.File { return w.f }

// Size is how many bytes were written.
func (w *Writer) Size() int64 { return w.size }

// Check compares the hash of what was written. When it isn't want, the error is
// Integrity, and nothing of it is kept.
func (w *Writer) Check(want kiln.Fingerprint) error {
	if got := kiln.Fingerprint(w.hash.Sum(nil)); got != want {
		w.Discard()
		return kiln.Errorf(kiln.Integrity, "the file has the hash %s, not %s", got, want)
	}
	return nil
}

// Hash gives the hash of what was written so far, to go on with elsewhere.
func (w *Writer) Hash() (hash.Hash, error) { return w.hash.(hash.Cloner).Clone() }

// Commit makes the blob appear and gives its hash. It must be want unless that is
// zero: the error is Integrity. A blob that was there is replaced: its file may have
// been damaged.
func (w *Writer) Commit(want kiln.Fingerprint) (kiln.Fingerprint, error) {
	got := kiln.Fingerprint(w.hash.Sum(nil))
	if !want.IsZero() {
		if err := w.Check(want); err != nil {
			return got, err
		}
	}
	if err := w.f.Chmod(0o400); err != nil {
		return got, err
	}
	if err := disk.Sync(w.f); err != nil {
		return got, err
	}
	path := w.dir.Path(got)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return got, err
	}
	if err := w.dir.makeWay(got); err != nil {
		return got, err
	}
	_, err := os.Lstat(path)
	w.again = !errors.Is(err, fs.ErrNotExist)
	if err := disk.Rename(w.f.Name(), path); err != nil {
		return got, err
	}
	w.done = true
	lost := filepath.Join(w.dir.path, "lost", got.String())
	switch err := os.Remove(lost); {
	case err == nil:
		w.again = true // it was put away
	case !errors.Is(err, fs.ErrNotExist):
		return got, err
	}
	if err := removeMark(lost); err != nil { // it may be lost once more, by itself
		return got, err
	}
	return got, disk.SyncDir(filepath.Join(w.dir.path, "sha256"))
}

// Mend is Commit in the place of a file that is damaged, which is put away: of that there is
// always one or the other.
func (w *Writer) Mend(want kiln.Fingerprint) error {
	if err := w.Check(want); err != nil {
		return err
	}
	if err := w.dir.keepDamaged(want); err != nil {
		return err
	}
	_, err := w.Commit(want)
	return err
}

// keepDamaged gives what is in the place of a blob a second name in lost/, if it is a file.
func (d *Dir) keepDamaged(fp kiln.Fingerprint) error {
	fi, err := os.Lstat(d.Path(fp))
	if err != nil || !fi.Mode().IsRegular() { // which Commit makes way for
		return nil
	}
	now := time.Now()
	to := filepath.Join(d.path, "lost", fp.String()+oddMark+strconv.FormatInt(now.UnixNano(), 10))
	if err := errors.Join(os.Chtimes(d.Path(fp), now, now), os.Link(d.Path(fp), to)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(to))
}

// New reports whether Commit made a blob that wasn't there before, nor put away: another
// isn't for who wrote it again to delete.
func (w *Writer) New() bool { return w.done && !w.again }

// Close throws the bytes away unless Commit was called, or Resume can go on with
// them.
func (w *Writer) Close() error {
	if w.done || w.partial && w.size+w.have > 0 {
		return w.f.Close()
	}
	err := os.Remove(w.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, w.f.Close())
}

// Put stores what r gives. Errors: Integrity when it isn't want, NoSpace.
func (d *Dir) Put(r io.Reader, want kiln.Fingerprint) (kiln.Fingerprint, error) {
	w, err := d.Create(-1)
	if err != nil {
		return kiln.Fingerprint{}, err
	}
	defer w.Close()
	if _, err := io.Copy(w, r); err != nil {
		return kiln.Fingerprint{}, err
	}
	return w.Commit(want)
}

// Open gives a blob for reading. Errors: NotFound, Integrity when something else is in
// its place.
func (d *Dir) Open(fp kiln.Fingerprint) (*os.File, error) {
	f, err := disk.Open(d.Path(fp))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.NotFound, "no blob %s", fp)
	}
	return f, err
}

// Stat gives the size of a blob in bytes. The error is NotFound, also when something else
// is in its place.
func (d *Dir) Stat(fp kiln.Fingerprint) (int64, error) {
	fi, err := os.Stat(d.Path(fp))
	if err == nil {
		if odd := disk.CheckFile(d.Path(fp), fi); odd != nil {
			return 0, kiln.Errorf(kiln.NotFound, "no blob %s: %w", fp, odd)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, kiln.Errorf(kiln.NotFound, "no blob %s", fp)
	}
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Delete removes a blob. One that isn't there is no error.
func (d *Dir) Delete(fp kiln.Fingerprint) error {
	err := os.Remove(d.Path(fp))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// List calls fn for every blob, with its size in bytes.
func (d *Dir) List(fn func(kiln.Fingerprint, int64) error) error {
	return filepath.WalkDir(filepath.Join(d.path, "sha256"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fp, err := kiln.ParseFingerprint(e.Name())
		if err != nil || !strings.HasPrefix(e.Name(), filepath.Base(filepath.Dir(path))) {
			return nil // not ours
		}
		fi, err := os.Stat(path)
		if err != nil || !fi.Mode().IsRegular() {
			return nil // as if it weren't there
		}
		return fn(fp, fi.Size())
	})
}

// Verify reads a blob again. The error is Integrity when it isn't what its name
// says, NotFound when it isn't there.
func (d *Dir) Verify(ctx context.Context, fp kiln.Fingerprint) error {
	return d.verify(fp, func(f *os.File, w io.Writer) error { return disk.ReadTo(ctx, f, w) })
}

// Scrub is Verify of what is on the disk, read at a pace. A file that the disk can't read is
// damaged, too.
func (d *Dir) Scrub(ctx context.Context, fp kiln.Fingerprint, pace disk.Pace) error {
	err := d.verify(fp, func(f *os.File, w io.Writer) error { return disk.ReadThrough(ctx, f, pace, w) })
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG) {
		err = kiln.Errorf(kiln.Integrity, "the file %s is damaged: %w", d.Path(fp), err)
	}
	return err
}

func (d *Dir) verify(fp kiln.Fingerprint, read func(*os.File, io.Writer) error) error {
	f, err := d.Open(fp)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if err := read(f, h); err != nil {
		return err
	}
	if got := kiln.Fingerprint(h.Sum(nil)); got != fp {
		return kiln.Errorf(kiln.Integrity, "the file %s is damaged: its hash is %s", d.Path(fp), got)
	}
	return nil
}

// Sweep puts the blobs away that keep doesn't want, which it gives, and removes what
// was being written when the last owner of the directory died. Nobody else may write
// meanwhile.
func (d *Dir) Sweep(keep func(kiln.Fingerprint) bool) (lost []kiln.Fingerprint, err error) {
	temps, err := os.ReadDir(filepath.Join(d.path, "tmp"))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, t := range temps {
		if !strings.HasPrefix(t.Name(), tempPrefix) {
			continue // whose that is isn't known
		}
		errs = append(errs, os.Remove(filepath.Join(d.path, "tmp", t.Name())))
	}
	errs = append(errs, d.List(func(fp kiln.Fingerprint, _ int64) error {
		if keep(fp) {
			return nil
		}
		lost = append(lost, fp)
		return d.lose(fp)
	}))
	if err := errors.Join(errs...); err != nil {
		return lost, fmt.Errorf("sweep %s: %w", d.path, err)
	}
	return lost, nil
}

// LostTime is how long blobs that nobody needed are kept in lost/, for who finds out
// that they were somebody's.
const LostTime = 7 * 24 * time.Hour

// lose puts a blob away. The time of its file says when.
func (d *Dir) lose(fp kiln.Fingerprint) error {
	now, to := time.Now(), filepath.Join(d.path, "lost", fp.String())
	return errors.Join(os.Chtimes(d.Path(fp), now, now), disk.Rename(d.Path(fp), to))
}

// oddMark is in the name of what was in the place of a blob and is none.
const oddMark = ".odd-"

// makeWay puts away what is in the place of a blob and is no file.
func (d *Dir) makeWay(fp kiln.Fingerprint) error {
	fi, err := os.Lstat(d.Path(fp))
	if err != nil || fi.Mode().IsRegular() || fi.Mode().Type() == fs.ModeSymlink { // which a rename replaces
		return nil
	}
	now := time.Now()
	to := filepath.Join(d.path, "lost", fp.String()+oddMark+strconv.FormatInt(now.UnixNano(), 10))
	return errors.Join(os.Chtimes(d.Path(fp), now, now), disk.RenameNew(d.Path(fp), to))
}

// An Odd is what was in the place of a blob and was put away, since it is none or damaged.
type Odd struct {
	Name string // for DropOdd
	Blob kiln.Fingerprint
	At   time.Time
	Size int64 // bytes
}

// Odd gives what was in the place of blobs and was put away, by name.
func (d *Dir) Odd() ([]Odd, error) {
	paths, err := disk.Glob(d.path, "lost/*"+oddMark+"*")
	var list []Odd
	for _, path := range paths {
		name := filepath.Base(path)
		fp, perr := kiln.ParseFingerprint(name[:strings.Index(name, oddMark)])
		fi, serr := os.Lstat(path)
		if perr != nil || serr != nil {
			continue // not ours, or removed meanwhile
		}
		list = append(list, Odd{name, fp, fi.ModTime(), fi.Size()})
	}
	return list, err
}

// DropOdd removes something that Odd gives. The error is NotFound.
func (d *Dir) DropOdd(name string) error {
	list, err := d.Odd()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(list, func(o Odd) bool { return o.Name == name }) {
		return kiln.Errorf(kiln.NotFound, "%s was not put away", name)
	}
	return os.RemoveAll(filepath.Join(d.path, "lost", name))
}

// OpenLost gives a blob that was put away for reading. The error is fs.ErrNotExist.
func (d *Dir) OpenLost(fp kiln.Fingerprint) (*os.File, error) {
	return disk.Open(filepath.Join(d.path, "lost", fp.String()))
}

// sweepOdd removes what Odd gives, and was put away long ago.
func (d *Dir) sweepOdd() error {
	list, err := disk.Glob(d.path, "lost/*"+oddMark+"*")
	errs := []error{err}
	for _, path := range list {
		errs = append(errs, dropOld(path))
	}
	return errors.Join(errs...)
}

// keepMark ends the name of an empty file beside a lost blob that stays.
const keepMark = ".keep"

// Keep puts a blob away until somebody brings it back or removes it: SweepLost doesn't.
func (d *Dir) Keep(fp kiln.Fingerprint) error {
	mark := filepath.Join(d.path, "lost", fp.String()+keepMark)
	if err := disk.WriteBytes(mark, 0o600, nil); err != nil {
		return err // without its mark it would be swept
	}
	return d.lose(fp)
}

// DropLost removes a blob that was put away. The error is NotFound.
func (d *Dir) DropLost(fp kiln.Fingerprint) error {
	path := filepath.Join(d.path, "lost", fp.String())
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kiln.Errorf(kiln.NotFound, "the blob %s was not put away", fp)
	}
	return errors.Join(err, removeMark(path))
}

func removeMark(path string) error {
	if err := os.Remove(path + keepMark); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Lost gives the blobs that were put away, by name.
func (d *Dir) Lost() ([]kiln.Fingerprint, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, "lost"))
	var list []kiln.Fingerprint
	for _, e := range entries {
		if fp, err := kiln.ParseFingerprint(e.Name()); err == nil {
			list = append(list, fp)
		}
	}
	return list, err
}

// StatLost says of a blob that was put away when that was, how many bytes it has, and
// whether it stays. The error is fs.ErrNotExist.
func (d *Dir) StatLost(fp kiln.Fingerprint) (at time.Time, size int64, kept bool, err error) {
	path := filepath.Join(d.path, "lost", fp.String())
	fi, err := os.Stat(path)
	if err != nil {
		return at, 0, false, err
	}
	_, mark := os.Stat(path + keepMark)
	return fi.ModTime(), fi.Size(), mark == nil, nil
}

// Find brings back a blob that was put away. Where a whole one is in its place by now, as
// after a crash of who brought it, that stays. The error is NotFound.
func (d *Dir) Find(fp kiln.Fingerprint) error {
	lost := filepath.Join(d.path, "lost", fp.String())
	if _, err := os.Lstat(lost); errors.Is(err, fs.ErrNotExist) {
		err = kiln.Errorf(kiln.NotFound, "the blob %s was not put away", fp)
		return errors.Join(err, removeMark(lost))
	} else if err != nil {
		return err
	}
	if d.Verify(context.Background(), fp) == nil {
		return nil
	}
	if err := errors.Join(disk.MkdirAll(filepath.Dir(d.Path(fp)), 0o700), d.makeWay(fp)); err != nil {
		return err
	}
	if err := disk.Rename(lost, d.Path(fp)); err != nil {
		return err
	}
	return removeMark(lost)
}

// dropOld removes what was put away longer ago than LostTime.
func dropOld(path string) error {
	if old, err := disk.Stale(path, LostTime); err != nil || !old {
		return err
	}
	return os.RemoveAll(path)
}

// SweepLost removes the blobs that were put away longer ago than LostTime, but for those
// that are kept.
func (d *Dir) SweepLost() error {
	list, err := d.Lost()
	errs := []error{err, d.sweepOdd()}
	for _, fp := range list {
		path := filepath.Join(d.path, "lost", fp.String())
		if _, err := os.Stat(path + keepMark); err == nil {
			continue
		}
		errs = append(errs, dropOld(path))
	}
	return errors.Join(errs...)
}
