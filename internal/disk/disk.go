// Package disk makes things appear on a disk whole or not at all, whatever happens
// meanwhile: what is in a file is synced before it gets its name, and the name
// before anybody is told. It doesn't know what is in a file.
//
// Everything that must outlive a power cut goes through here, so that tests can see
// in which order it reaches the disk; see Record.
package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// The kinds of steps that Record tells of.
const (
	SyncedFile   = "sync file"   // its content is on the disk
	SyncedDir    = "sync dir"    // the names in it are
	SyncedSystem = "sync system" // all of the file system that it is on is
	Renamed      = "rename"      // Path is the new name
)

// A Step is one thing that was done, in the order of the steps.
type Step struct{ Kind, Path string }

var recorder atomic.Pointer[func(Step)]

// Record has f told of every step until the function that it gives is called. It is
// for tests, of which one at a time may record.
func Record(f func(Step)) (stop func()) {
	recorder.Store(&f)
	return func() { recorder.Store(nil) }
}

func done(kind, path string) {
	if f := recorder.Load(); f != nil {
		(*f)(Step{kind, path})
	}
}

// Write makes a file appear with what fill writes, in the place of one that is
// there: under another name first, synced, then renamed. Directories on the way are
// made for their owner alone. When fill fails nothing changes, and the error is its.
func Write(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	dir := filepath.Dir(path)
	if err := MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, unfinished)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone if it has its name
	defer f.Close()
	if err := errors.Join(fill(f), f.Chmod(mode)); err != nil {
		return err
	}
	if err := errors.Join(Sync(f), f.Close()); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// unfinished begins the name of a file that is being written, as long as it isn't whole.
const unfinished = ".new-"

// IsUnfinished reports whether a name is that of a file that Write has begun. Who is killed
// leaves it.
func IsUnfinished(name string) bool { return strings.HasPrefix(name, unfinished) }

// Glob gives the paths below a directory that match a pattern, which is filepath.Glob's.
// The directory's own name may have any characters.
func Glob(dir, pattern string) ([]string, error) {
	list, err := fs.Glob(os.DirFS(dir), pattern)
	for i, p := range list {
		list[i] = filepath.Join(dir, p)
	}
	return list, err
}

// making counts the calls that make a directory, until its name is on the disk. Who finds
// one there that somebody else makes syncs its name, too, rather than wait: the other may
// stand at a file system that doesn't answer.
var making = struct {
	sync.Mutex // never held while the disk is asked
	dirs       map[string]int
}{dirs: map[string]int{}}

// MkdirAll is os.MkdirAll that returns when the names of the directories it made are on
// the disk, and of those that another call makes meanwhile.
func MkdirAll(path string, mode fs.FileMode) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	var missing, there []string
	for p := path; p != filepath.Dir(p); p = filepath.Dir(p) {
		if len(there) == 0 {
			if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, p)
				continue
			} // whatever else is wrong, making it tells
		}
		there = append(there, p)
	}
	making.Lock()
	unsynced := missing
	for _, p := range there { // looked at before: who made one is counted, or has synced it
		if making.dirs[p] > 0 {
			unsynced = append(unsynced, p)
		}
	}
	for _, p := range unsynced {
		making.dirs[p]++
	}
	making.Unlock()
	defer func() {
		making.Lock()
		defer making.Unlock()
		for _, p := range unsynced {
			if making.dirs[p]--; making.dirs[p] == 0 {
				delete(making.dirs, p)
			}
		}
	}()
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	for _, p := range slices.Backward(unsynced) {
		if err := SyncDir(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// OwnDir makes a directory whose content belongs to the caller alone, who removes from
// it what it doesn't know. So it may not be a symbolic link, behind which are other
// things. The error is Integrity then.
func OwnDir(path string, mode fs.FileMode) error {
	return ownDir(path, mode, "To keep it on another disk, mount that there")
}

func ownDir(path string, mode fs.FileMode, advice string) error {
	if err := MkdirAll(path, mode); err != nil {
		return err
	}
	fi, err := os.Lstat(path)
	if err == nil && !fi.IsDir() {
		err = kiln.Errorf(kiln.Integrity, "%s is a symbolic link; kiln removes what it doesn't know from its own "+
			"directories, so each has to be one. %s", path, advice)
	}
	return err
}

// OwnDirs is OwnDir for directories in one directory, between which things are moved in
// one step. So each must be on its file system, and no mount: the error is Integrity, too.
func OwnDirs(parent string, mode fs.FileMode, names ...string) error {
	top, err := filepath.Abs(parent)
	if err != nil {
		return err
	}
	advice := fmt.Sprintf("To keep them on another disk, mount that as the whole of %s or of %s", top, filepath.Dir(top))
	for _, name := range names {
		path := filepath.Join(parent, name)
		if err := ownDir(path, mode, advice); err != nil {
			return err
		}
		var in, of unix.Statx_t
		for dir, st := range map[string]*unix.Statx_t{parent: &of, path: &in} {
			if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, st); err != nil {
				return &os.PathError{Op: "statx", Path: dir, Err: err}
			}
		}
		if in.Mnt_id != of.Mnt_id || in.Dev_major != of.Dev_major || in.Dev_minor != of.Dev_minor {
			return kiln.Errorf(kiln.Integrity, "%s is a mount or a file system of its own; kiln moves files between the "+
				"directories in %s, which have to be on one. %s", path, top, advice)
		}
	}
	return nil
}

// WriteBytes is Write for a content that is at hand.
func WriteBytes(path string, mode fs.FileMode, b []byte) error {
	return Write(path, mode, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(b))
		return err
	})
}

// WriteUnsynced makes a file appear whole, in the place of one that is there, for what isn't
// true any more after a power cut: nothing is synced. Something else than a file in the place
// of path+".new", under which it is written first, is an error as OpenFile has it.
func WriteUnsynced(path string, mode fs.FileMode, b []byte) error {
	temp := path + ".new"
	f, err := OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil { // whatever the umask is
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// spare is how much longer what is in a file of Rewrite may become where there is no room, in
// bytes, and rounded how its size is.
const spare, rounded = 64, 512

// Rewrite is WriteUnsynced for a record in JSON, which has spaces at its end. Where there is no
// room for another file it is written over the one that is there, if that is long enough: who
// reads it then may see some of both, and so may the next one after a crash of the host.
func Rewrite(path string, mode fs.FileMode, b []byte) error {
	err := WriteUnsynced(path, mode, pad(b, (len(b)+spare+rounded-1)/rounded*rounded))
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	f, oerr := OpenFile(path, os.O_WRONLY, 0)
	if oerr != nil {
		return err
	}
	defer f.Close()
	fi, serr := f.Stat()
	if serr != nil || fi.Size() < int64(len(b)) {
		return err
	}
	if _, werr := f.WriteAt(pad(b, int(fi.Size())), 0); werr != nil {
		return errors.Join(err, werr)
	}
	return nil
}

// pad gives a copy with spaces at its end.
func pad(b []byte, size int) []byte {
	padded := bytes.Repeat([]byte{' '}, size)
	copy(padded, b)
	return padded
}

// Sync returns when what is in a file is on the disk.
func Sync(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	done(SyncedFile, f.Name())
	return nil
}

// SyncDir returns when the names in a directory are on the disk.
func SyncDir(path string) error {
	d, err := OpenDir(path)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	done(SyncedDir, path)
	return nil
}

// SyncSystem returns when all of the file system that a directory is on is on the
// disk: for trees, which have too many files to sync one by one.
func SyncSystem(dir string) error {
	d, err := OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: dir, Err: err}
	}
	done(SyncedSystem, dir)
	return nil
}

// Rename gives what is synced its name, in the place of a file that has it, and returns
// when that is on the disk. When the disk doesn't take it the file that was there is gone
// all the same, and what is renamed has its new name.
func Rename(from, to string) error { return rename(from, to, 0) }

// RenameNew is Rename for a name that must be new: fs.ErrExist when it isn't. When it
// fails, also because the disk doesn't take it, all has the name that it had.
func RenameNew(from, to string) error { return rename(from, to, unix.RENAME_NOREPLACE) }

// Exchange has two files or directories change places in one step. When it fails, also
// because the disk doesn't take it, each is where it was: who cleans up removes what was
// to be put there, not what was there.
func Exchange(a, b string) error { return rename(a, b, unix.RENAME_EXCHANGE) }

// syncNames is (*os.File).Sync, which no test makes fail by itself.
var syncNames = (*os.File).Sync

func rename(from, to string, flags uint) error {
	// Opened before: there may be no descriptor left for them later.
	paths := []string{filepath.Dir(to)}
	if flags == unix.RENAME_EXCHANGE {
		paths = append(paths, filepath.Dir(from))
	}
	var dirs []*os.File
	for _, p := range paths {
		d, err := OpenDir(p)
		if err != nil {
			return err
		}
		defer d.Close() // what is there is there, whatever that says
		dirs = append(dirs, d)
	}
	if err := move(from, to, flags); err != nil {
		return err
	}
	for _, d := range dirs {
		if err := syncNames(d); err != nil {
			if flags != 0 { // what was replaced doesn't come back
				err = errors.Join(err, move(to, from, flags))
			}
			return err
		}
		done(SyncedDir, d.Name())
	}
	return nil
}

func move(from, to string, flags uint) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	done(Renamed, to)
	return nil
}
