// Package template makes files of a root filesystem from the templates that an
// image brings along. Templates are a stranger's programs: they can read nothing
// but what they are given, and can't run or write for ever.
//
// The package doesn't know where the root filesystem is mounted from, nor when
// templates are due beyond the trigger it is told.
package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flosch/pongo2/v6"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// Bounds on what a template may take.
const (
	MaxSource = 1 << 20 // bytes of a template
	maxOutput = 1 << 20 // bytes of what it writes
	maxTime   = 5 * time.Second
)

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
// are inside. The error names the file; Invalid for a bad template.
func Render(ctx context.Context, i Instance, trigger string, meta, rootfs *os.Root, entries map[string]Entry) error {
	for _, target := range slices.Sorted(maps.Keys(entries)) {
		e := entries[target]
		if !slices.Contains(e.When, trigger) {
			continue
		}
		if err := render(ctx, i, trigger, target, meta, rootfs, e); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "file %q: %w", target, err)
		}
	}
	return nil
}

func render(ctx context.Context, i Instance, trigger, target string, meta, rootfs *os.Root, e Entry) error {
	source, err := read(meta, e.Template)
	if err != nil {
		return err
	}
	f, err := open(rootfs, target, e)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	text, err := Execute(ctx, source, variables(i, trigger, target, e))
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// read gives a template, which must be a plain file in templates/.
func read(meta *os.Root, name string) (string, error) {
	if name == "" || name == "." || name == ".." || path.Base(name) != name {
		return "", kiln.Errorf(kiln.Invalid, "Template path is attempting to read outside of template directory: %q", name)
	}
	file := path.Join("templates", name)
	fi, err := meta.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", kiln.Errorf(kiln.Invalid, "Failed to read template file: there is no %q", file)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("Failed to read template file: %w", err)
	case fi.Mode()&fs.ModeSymlink != 0:
		return "", kiln.Errorf(kiln.Invalid, "Template file is a symlink: %q", file)
	case !fi.Mode().IsRegular() || fi.Size() > MaxSource:
		return "", kiln.Errorf(kiln.Invalid, "Failed to read template file: %q is no plain file of at most %d bytes", file, MaxSource)
	}
	b, err := meta.ReadFile(file)
	return string(b), err
}

// variables is the context of every template.
func variables(i Instance, trigger, target string, e Entry) pongo2.Context {
	instance := map[string]string{
		"name": i.Name, "type": i.Type, "architecture": i.Architecture,
		"privileged": strconv.FormatBool(i.Privileged), "ephemeral": strconv.FormatBool(i.Ephemeral),
	}
	properties := e.Properties
	if properties == nil {
		properties = map[string]string{}
	}
	return pongo2.Context{
		"trigger": trigger, "path": target, "instance": instance, "container": instance,
		"config": i.Config, "devices": i.Devices, "properties": properties,
		"config_get": func(key string, otherwise *pongo2.Value) *pongo2.Value {
			if v, ok := i.Config[key]; ok {
				return pongo2.AsValue(strings.TrimRight(v, "\r\n"))
			}
			return otherwise
		},
	}
}

// banned are the tags that read files.
var banned = []string{"extends", "import", "include", "ssi"}

// noFiles is a loader that has none.
type noFiles struct{}

func (noFiles) Abs(_, name string) string { return name }

func (noFiles) Get(name string) (io.Reader, error) {
	return nil, fmt.Errorf("templates can't read files: %q", name)
}

// Execute renders one template. The error is Invalid, or TooLarge or Timeout for
// one that writes or works too much. A template that works without writing is
// left behind when its time is over.
func Execute(ctx context.Context, source string, vars pongo2.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	type result struct {
		text string
		err  error
	}
	c := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("it panicked: %v", p)}
			}
			c <- r
		}()
		r.text, r.err = execute(ctx, source, vars)
	}()
	var r result
	select {
	case r = <-c:
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	switch {
	case r.err == nil:
		return r.text, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", kiln.Errorf(kiln.Timeout, "Failed to render template: it takes longer than %v", maxTime)
	case errors.Is(r.err, errTooMuch):
		return "", kiln.Errorf(kiln.TooLarge, "Failed to render template: %w", errTooMuch)
	}
	return "", kiln.Errorf(kiln.Invalid, "Failed to render template: %w", r.err)
}

func execute(ctx context.Context, source string, vars pongo2.Context) (string, error) {
	set := pongo2.NewSet("instance", noFiles{})
	for _, tag := range banned {
		if err := set.BanTag(tag); err != nil {
			return "", err
		}
	}
	// What these files are is no HTML.
	t, err := set.FromString("{% autoescape off %}" + source + "{% endautoescape %}")
	if err != nil {
		return "", err
	}
	out := &bounded{ctx: ctx}
	if err := t.ExecuteWriterUnbuffered(vars, out); err != nil {
		return "", err
	}
	return out.String(), out.err // which the library doesn't look at
}

var errTooMuch = fmt.Errorf("it writes more than %d bytes", maxOutput)

// bounded takes so much and no more.
type bounded struct {
	strings.Builder
	ctx context.Context
	err error // the first, which stays
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.err == nil {
		b.err = b.ctx.Err()
	}
	if b.err == nil && b.Len()+len(p) > maxOutput {
		b.err = errTooMuch
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.Builder.Write(p)
}

// WriteString is io.StringWriter's; without it the builder's own would be used.
func (b *bounded) WriteString(s string) (int, error) { return b.Write([]byte(s)) }

// open gives the file to write, made with its missing parents where it isn't
// there; nil when it is to be left alone. Symlinks are followed as they would be
// inside: an absolute one begins at the root of the tree.
func open(rootfs *os.Root, target string, e Entry) (*os.File, error) {
	dir, err := rootfs.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	root := int(dir.Fd())
	name := strings.TrimLeft(path.Clean("/"+target), "/")
	if name == "" || strings.ContainsAny(target, "\x00\n") {
		return nil, kiln.Errorf(kiln.Invalid, "the path can't be a file's")
	}
	fd, err := openIn(root, name, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		f := os.NewFile(uintptr(fd), target)
		fi, err := f.Stat()
		switch {
		case err != nil:
			return nil, errors.Join(err, f.Close())
		case !fi.Mode().IsRegular():
			return nil, errors.Join(kiln.Errorf(kiln.Invalid, "it is there and no plain file"), f.Close())
		case e.CreateOnly:
			return nil, f.Close()
		}
		return f, nil
	}
	if err != unix.ENOENT {
		return nil, err
	}
	if err := makeParents(root, path.Dir(name)); err != nil {
		return nil, fmt.Errorf("make its directory: %w", err)
	}
	return create(root, name, e)
}

func openIn(root int, name string, flags, mode uint64) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// makeParents makes the directories that a path lacks, 0755 and the root's.
func makeParents(root int, dir string) error {
	if dir == "." {
		return nil
	}
	if fd, err := openIn(root, dir, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		return unix.Close(fd)
	} else if err != unix.ENOENT {
		return err
	}
	if err := makeParents(root, path.Dir(dir)); err != nil {
		return err
	}
	parent, err := openIn(root, path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(dir), 0o755); err != nil {
		return err
	}
	return unix.Fchmodat(parent, path.Base(dir), 0o755, 0) // whatever the umask
}

func create(root int, name string, e Entry) (*os.File, error) {
	mode, uid, gid := uint64(0o644), 0, 0
	var err error
	if e.Mode != "" {
		if mode, err = strconv.ParseUint(e.Mode, 8, 12); err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "Bad file mode: %q", e.Mode)
		}
	}
	for _, id := range []struct {
		what, text string
		to         *int
	}{{"UID", e.UID, &uid}, {"GID", e.GID, &gid}} {
		if id.text == "" {
			continue
		}
		n, err := strconv.ParseUint(id.text, 10, 31)
		if err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "Bad file %s: %q", id.what, id.text)
		}
		*id.to = int(n)
	}
	// A dangling symlink is followed too, as it would be inside.
	fd, err := openIn(root, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := errors.Join(unix.Fchown(fd, uid, gid), unix.Fchmod(fd, uint32(mode))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
