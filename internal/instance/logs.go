package instance

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// logNames are the files of a box that users may read.
var logNames = []string{"console.log", "console.log.1", "lxc.log", "lxc.log.1", "lxc.conf"}

// Logs gives the names of an instance's log files. The error is NotFound.
func (s *Set) Logs(ctx context.Context, name string) ([]string, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	list := []string{}
	for _, n := range logNames {
		if _, err := os.Stat(filepath.Join(s.boxDir(r), n)); err == nil {
			list = append(list, n)
		}
	}
	entries, err := os.ReadDir(s.boxDir(r))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // it never ran
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), recorded) {
			list = append(list, e.Name())
		}
	}
	return list, err
}

// OpenLog opens one of the files that Logs names. The error is NotFound.
func (s *Set) OpenLog(ctx context.Context, name, file string) (*os.File, error) {
	names, err := s.Logs(ctx, name)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, file) {
		return nil, kiln.Errorf(kiln.NotFound, "instance %q has no log %q", name, file)
	}
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	return disk.Open(filepath.Join(s.boxDir(r), file))
}

// recorded begins the names of files with the output of commands.
const recorded = "exec_"

// mostRecorded is how many such files an instance keeps, the newest ones.
const mostRecorded = 200

// CreateLog makes a file that Logs will name, for the output of a command. The oldest
// ones go when there are many.
func (s *Set) CreateLog(ctx context.Context, name, file string) (*os.File, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	dir := s.boxDir(r)
	if err := dropOldest(dir, recorded, mostRecorded-1); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, filepath.Base(file)), os.O_CREATE|os.O_EXCL|os.O_RDWR, fs.FileMode(0o600))
}

// dropOldest removes files whose names begin with a prefix, but for the newest ones.
func dropOldest(dir, prefix string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), prefix) {
			files = append(files, fi)
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var errs []error
	for _, fi := range files[min(keep, len(files)):] {
		if err := os.Remove(filepath.Join(dir, fi.Name())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// DeleteLog removes a file with the output of a command.
// Errors: NotFound, Invalid for the other ones, which are bounded.
func (s *Set) DeleteLog(ctx context.Context, name, file string) error {
	names, err := s.Logs(ctx, name)
	if err != nil {
		return err
	}
	if !slices.Contains(names, file) {
		return kiln.Errorf(kiln.NotFound, "instance %q has no log %q", name, file)
	}
	if !strings.HasPrefix(file, recorded) {
		return kiln.Errorf(kiln.Invalid, "log %q of instance %q can't be deleted: it is kept up to 2 MB, and written on; "+
			"only recorded output of commands can", file, name)
	}
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return err
	}
	return os.Remove(filepath.Join(s.boxDir(r), file))
}
