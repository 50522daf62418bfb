package backup

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A Dir keeps backups, of whom a UUID names:
//
//	<uuid>/<name>/backup        the tarball
//	<uuid>/<name>/backup.json   what is said of it
//	<uuid>/.unknown             since when nobody is known whose they are
//	.new-…                      what isn't whole yet
//
// Each appears whole or not at all, so a directory is all that tells of one.
type Dir struct{ dir string }

// A Stored is a backup that is kept.
type Stored struct {
	Name      string    `json:"-"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`    // zero: never
	Only      bool      `json:"instance_only"` // without the snapshots
	Size      int64     `json:"-"`             // bytes
}

const (
	tarball  = "backup"
	about    = "backup.json"
	orphaned = ".unknown"
	unwhole  = ".new-"
	maxAbout = 64 << 10
)

// OpenDir opens a directory, which it makes, and removes what wasn't finished.
func OpenDir(dir string) (*Dir, error) {
	if err := disk.OwnDir(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unwhole) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return &Dir{dir}, err
}

// place is where a backup is. The error is NotFound for what can't be one.
func (d *Dir) place(of, name string) (string, error) {
	if uuid.Validate(of) != nil || kiln.CheckSnapshotName(name) != nil {
		return "", notThere(name)
	}
	return filepath.Join(d.dir, of, name), nil
}

func notThere(name string) error { return kiln.Errorf(kiln.NotFound, "no backup %q", name) }

// Create keeps a backup that fill writes. It is on the disk when Create returns.
// Errors: Conflict when there is one of this name, and fill's.
func (d *Dir) Create(of string, b Stored, fill func(io.Writer) error) error {
	final, err := d.place(of, b.Name)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp(d.dir, unwhole)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // it isn't there any more if it has its name
	if err := disk.Write(filepath.Join(temp, tarball), 0o600, fill); err != nil {
		return err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := disk.WriteBytes(filepath.Join(temp, about), 0o600, text); err != nil {
		return err
	}
	for range placeTries {
		if err = disk.MkdirAll(filepath.Dir(final), 0o700); err != nil {
			return err
		}
		err = disk.RenameNew(temp, final)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		} // Sweep took it for one that is left empty
	}
	return taken(b.Name, err)
}

// placeTries is how often a directory is made anew that somebody removes, before a backup is in it.
const placeTries = 10

func taken(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return kiln.Errorf(kiln.Conflict, "Backup %q already exists; give another name", name)
	}
	return err
}

// List gives the backups of somebody, oldest first. One that can't be read is left out.
func (d *Dir) List(of string) ([]Stored, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, of))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []Stored
	for _, e := range entries {
		if b, err := d.Get(of, e.Name()); err == nil {
			list = append(list, b)
		}
	}
	slices.SortStableFunc(list, func(a, b Stored) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return list, nil
}

// All gives the backups of everybody, but for those of whom they can't be read: what is
// wrong there hides nobody else's, and List says it.
func (d *Dir) All() (map[string][]Stored, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	all := map[string][]Stored{}
	for _, e := range entries {
		if uuid.Validate(e.Name()) != nil {
			continue
		}
		if list, err := d.List(e.Name()); err == nil {
			all[e.Name()] = list
		}
	}
	return all, nil
}

// Get gives one backup. The error is NotFound.
func (d *Dir) Get(of, name string) (Stored, error) {
	b := Stored{Name: name}
	dir, err := d.place(of, name)
	if err != nil {
		return b, err
	}
	fi, err := os.Stat(filepath.Join(dir, tarball))
	if err != nil {
		return b, notThere(name)
	}
	b.Size, b.CreatedAt = fi.Size(), fi.ModTime()
	text, err := readBounded(filepath.Join(dir, about), maxAbout)
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil { // it is as good as its tarball; only when it goes isn't known
		return Stored{Name: name, Size: fi.Size(), CreatedAt: fi.ModTime()}, nil
	}
	return b, nil
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// Open opens the tarball. The error is NotFound.
func (d *Dir) Open(of, name string) (*os.File, error) {
	dir, err := d.place(of, name)
	if err != nil {
		return nil, err
	}
	f, err := disk.Open(filepath.Join(dir, tarball))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notThere(name)
	}
	return f, err
}

// Rename gives a backup another name. Errors: NotFound, Conflict.
func (d *Dir) Rename(of, from, to string) error {
	a, err := d.place(of, from)
	if err != nil {
		return err
	}
	b, err := d.place(of, to)
	if err != nil {
		return err
	}
	err = disk.RenameNew(a, b)
	if errors.Is(err, fs.ErrNotExist) {
		return notThere(from)
	}
	return taken(to, err)
}

// Delete removes a backup. Who is reading it reads on. The error is NotFound.
func (d *Dir) Delete(of, name string) error {
	dir, err := d.place(of, name)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return notThere(name)
	}
	return d.discard(dir)
}

// DeleteAll removes the backups of somebody; none is no error.
func (d *Dir) DeleteAll(of string) error {
	if uuid.Validate(of) != nil {
		return nil // who can't have any
	}
	return d.discard(filepath.Join(d.dir, of))
}

// discard moves a directory out of sight before it is removed. It makes nothing for that:
// on a full disk there may be no room for another directory.
func (d *Dir) discard(dir string) error {
	temp := filepath.Join(d.dir, unwhole+rand.Text())
	defer os.RemoveAll(temp) // what is left goes with the next OpenDir
	err := os.Rename(dir, temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sweep removes what has expired, and the backups of somebody who hasn't been known for
// some time: a copy of the database that is brought back may know them.
func (d *Dir) Sweep(now time.Time, known func(of string) bool, keep time.Duration) error {
	all, err := d.All()
	if err != nil {
		return err
	}
	var errs []error
	for of, list := range all {
		for _, b := range list {
			if !b.ExpiresAt.IsZero() && !b.ExpiresAt.After(now) {
				if err := d.Delete(of, b.Name); !errors.Is(err, kiln.NotFound) {
					errs = append(errs, err)
				}
			}
		}
		if d.empty(of) {
			continue
		}
		since, err := d.unknownSince(of, now, known(of))
		if err == nil && !since.IsZero() && now.Sub(since) > keep {
			err = d.DeleteAll(of)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// empty removes the directory of somebody who has no backups, and reports whether it did: one
// where some is being made stays.
func (d *Dir) empty(of string) bool {
	path := filepath.Join(d.dir, of)
	entries, err := os.ReadDir(path)
	if err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != orphaned }) {
		return false
	}
	_ = os.Remove(filepath.Join(path, orphaned))
	return os.Remove(path) == nil
}

// unknownSince remembers since when somebody isn't known; zero: they are.
func (d *Dir) unknownSince(of string, now time.Time, known bool) (time.Time, error) {
	mark := filepath.Join(d.dir, of, orphaned)
	if known {
		err := os.Remove(mark)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return time.Time{}, err
	}
	fi, err := os.Lstat(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return now, errors.Join(disk.WriteBytes(mark, 0o600, nil), os.Chtimes(mark, now, now))
	}
	if err != nil {
		return now, err
	}
	if !disk.ClockSet(fi.ModTime()) && disk.ClockSet(now) { // when that was isn't known
		return now, os.Chtimes(mark, now, now)
	}
	return fi.ModTime(), nil
}
