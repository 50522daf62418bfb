package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// Open opens a file of the caller's own for reading; see OpenFile.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is os.OpenFile for what is only ever a file. What else has its name, such as a
// directory, a device, or a named pipe, which nobody may ever write to, is told at once:
// the error is Integrity, and a *fs.PathError.
func OpenFile(path string, flag int, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	return onlyFile(f, err, path, func() (fs.FileInfo, error) { return os.Stat(path) })
}

// OpenFileIn is OpenFile for a file of a directory, which it is looked for below.
func OpenFileIn(dir *os.Root, name string, flag int, mode fs.FileMode) (*os.File, error) {
	f, err := dir.OpenFile(name, flag|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	return onlyFile(f, err, filepath.Join(dir.Name(), name), func() (fs.FileInfo, error) { return dir.Stat(name) })
}

// onlyFile is what is opened, or not, if it is a file.
func onlyFile(f *os.File, err error, path string, stat func() (fs.FileInfo, error)) (*os.File, error) {
	if err != nil {
		if fi, serr := stat(); serr == nil {
			if odd := CheckFile(path, fi); odd != nil {
				return nil, odd
			}
		}
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = CheckFile(path, fi)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadFile is os.ReadFile as OpenFile is os.OpenFile.
func ReadFile(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// CheckFile says what is in the place of a file, if it is none, as OpenFile does.
func CheckFile(path string, fi fs.FileInfo) error {
	var what string
	switch fi.Mode().Type() {
	case 0:
		return nil
	case fs.ModeDir:
		what = "a directory"
	case fs.ModeNamedPipe:
		what = "a named pipe"
	case fs.ModeSocket:
		what = "a socket"
	default:
		what = "a device"
	}
	return kiln.Errorf(kiln.Integrity, "%w", &fs.PathError{Op: "open", Path: path, Err: errors.New("it is " + what +
		", where a file should be; move it away")})
}

// ReadFileIn is ReadFile for a file of a directory, which it is looked for below.
func ReadFileIn(dir *os.Root, name string) ([]byte, error) {
	f, err := OpenFileIn(dir, name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// OpenDir opens what is only ever a directory. What else has its name, such as a named
// pipe, is told at once: the error is unix.ENOTDIR.
func OpenDir(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// OpenRoot is os.OpenRoot as OpenDir is os.Open.
func OpenRoot(path string) (*os.Root, error) {
	d, err := OpenDir(path) // os.OpenRoot opens whatever is there
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return os.OpenRoot(path)
}

// RemoveAll is os.RemoveAll that doesn't wait where something else, such as a named pipe,
// has the place of the directory that the path is in: nothing can be in that.
func RemoveAll(path string) error {
	d, err := OpenDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(path), d.Close())
}
