// Package template makes files of a root filesystem from the templates that an
// image brings along. Templates are untrusted programs: they are run in a
// process of their own that can read nothing but what it is given, and is ended
// when it takes too long or too much.
//
// The package doesn't know where the root filesystem is mounted from, nor when
// templates are due beyond the trigger it is told.
package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
)

// MaxSource is the size of the largest template, in bytes.
const MaxSource = 1 << 20

// Instance is what templates are told of the instance.
type Instance struct {
	Name, Type, Architecture string
	Privileged, Ephemeral    bool
	Config                   map[string]string // with profiles
	Devices                  map[string]map[string]string
}

// An Entry says when and how one file is made, as metadata.yaml does.
type Entry struct {
	When           []string
	CreateOnly     bool   // leave a file alone that is there
	Template       string // name of a file in templates/
	Properties     map[string]string
	UID, GID, Mode string // of a new file; "": 0, 0, 0644
}

// Render makes the files of the templates that have the trigger, by path. meta
// has the directory templates/; rootfs is the root filesystem with ids as they
// are inside. A file is touched only after its template was rendered. The error
// names the file. Errors: Invalid for a bad template, TooLarge and Timeout for
// one that writes or works too much.
func Render(ctx context.Context, i Instance, trigger string, meta, rootfs *os.Root, entries map[string]Entry) error {
	due := slices.DeleteFunc(slices.Sorted(maps.Keys(entries)), func(target string) bool {
		return !slices.Contains(entries[target].When, trigger)
	})
	if len(due) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errTooLong)
	defer cancel()
	p, err := start(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, target := range due {
		j := job{Instance: i, Trigger: trigger, Path: target, Properties: entries[target].Properties}
		if err := makeFile(ctx, p, j, meta, rootfs, entries[target]); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "file %q: %w", target, err)
		}
	}
	return nil
}

func makeFile(ctx context.Context, p *process, j job, meta, rootfs *os.Root, e Entry) error {
	t, err := find(rootfs, j.Path)
	if err != nil {
		return err
	}
	defer t.Close()
	if t.exists() && e.CreateOnly {
		return nil
	}
	if j.Source, err = read(meta, e.Template); err != nil {
		return err
	}
	text, err := p.render(ctx, j)
	if err != nil {
		return err
	}
	return t.write(text, e)
}

// read gives a template, which must be a plain file in templates/.
func read(meta *os.Root, name string) ([]byte, error) {
	if name == "" || name == "." || name == ".." || path.Base(name) != name {
		return nil, kiln.Errorf(kiln.Invalid, "Template path is attempting to read outside of template directory: %q", name)
	}
	file := path.Join("templates", name)
	fi, err := meta.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, kiln.Errorf(kiln.Invalid, "Failed to read template file: there is no %q", file)
	case err != nil:
		return nil, fmt.Errorf("Failed to read template file: %w", err)
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil, kiln.Errorf(kiln.Invalid, "Template file is a symlink: %q", file)
	case !fi.Mode().IsRegular() || fi.Size() > MaxSource:
		return nil, kiln.Errorf(kiln.Invalid, "Failed to read template file: %q is no plain file of at most %d bytes", file,
			MaxSource)
	}
	return meta.ReadFile(file)
}

// Name renders the pattern of a name, which is told creation_date and nothing else.
// Errors: as of Render.
func Name(ctx context.Context, pattern string, created time.Time) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errTooLong)
	defer cancel()
	p, err := start(ctx)
	if err != nil {
		return "", err
	}
	defer p.Close()
	text, err := p.render(ctx, job{Source: []byte(pattern), Created: created})
	return string(text), err
}
