package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/template"
	"github.com/kiln-containers/kiln/internal/volume"
)

// The names of an image's own files beside the root filesystem.
const (
	metadataFile = "metadata.yaml"
	templateDir  = "templates"
)

// applyTemplates renders the templates that a start asks for, into the root
// filesystem as it is while the instance doesn't run.
func (s *Set) applyTemplates(ctx context.Context, i Instance, vol *volume.Volume) error {
	meta, err := vol.Meta()
	if err != nil {
		return err
	}
	defer meta.Close()
	m, err := readMetadata(meta)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var triggers []string
	for _, t := range []string{i.Options[TemplateKey], "start"} {
		for _, e := range m.Templates {
			if t != "" && slices.Contains(e.When, t) {
				triggers = append(triggers, t)
				break
			}
		}
	}
	if len(triggers) == 0 {
		return nil
	}
	mount, err := vol.MountToChange(ctx, nil)
	if err != nil {
		return err
	}
	defer mount.Close()
	rootfs, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", mount.Fd()))
	if err != nil {
		return err
	}
	defer rootfs.Close()
	guest := template.Instance{
		Name: i.Name, Type: i.Type, Architecture: i.Architecture,
		Privileged: kiln.IsTrue(i.ExpandedConfig["security.privileged"]), Ephemeral: i.Ephemeral,
		Config: i.ExpandedConfig, Devices: i.ExpandedDevices,
	}
	entries := map[string]template.Entry{}
	for target, e := range m.Templates {
		entries[target] = template.Entry(*e)
	}
	for _, t := range triggers {
		if err := template.Render(ctx, guest, t, meta, rootfs, entries); err != nil {
			return err
		}
	}
	return nil
}

func readMetadata(meta *os.Root) (*format.Metadata, error) {
	b, err := readFile(meta, metadataFile, format.MaxMetadata)
	if err != nil {
		return nil, err
	}
	m, err := format.ParseMetadata(b)
	if err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "Could not parse %s: %w", metadataFile, err)
	}
	return m, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(dir *os.Root, name string, limit int64) ([]byte, error) {
	if fi, err := dir.Lstat(name); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, kiln.Errorf(kiln.Invalid, "%s is not a regular file", name)
	}
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = kiln.Errorf(kiln.TooLarge, "%s is larger than %d bytes", name, limit)
	}
	return b, err
}

// volumeOf gives the volume of an instance. The error is NotFound.
func (s *Set) volumeOf(ctx context.Context, name string) (*volume.Volume, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	vol, err := s.pool.Get(r.Config[UUIDKey])
	return vol, filesOfInstance(name, err)
}

// Metadata reads an instance's own metadata.yaml. Errors: NotFound, Invalid.
func (s *Set) Metadata(ctx context.Context, name string) (*format.Metadata, error) {
	meta, err := s.meta(ctx, name)
	if err != nil {
		return nil, err
	}
	defer meta.Close()
	m, err := readMetadata(meta)
	if errors.Is(err, fs.ErrNotExist) {
		return &format.Metadata{}, nil
	}
	return m, err
}

// EditMetadata changes an instance's own metadata.yaml, while nobody else does; its image
// stays as it is. Errors: NotFound, Invalid, and those of change.
func (s *Set) EditMetadata(ctx context.Context, name string,
	change func(*format.Metadata) (*format.Metadata, error)) error {
	return s.editMeta(ctx, name, func(meta *os.Root) error {
		m, err := readMetadata(meta)
		if errors.Is(err, fs.ErrNotExist) {
			m, err = &format.Metadata{}, nil
		}
		if err == nil {
			m, err = change(m)
		}
		if err == nil {
			err = m.Check()
		}
		if err != nil {
			return err
		}
		b, err := m.YAML()
		if err != nil {
			return err
		}
		if _, err := format.ParseMetadata(b); err != nil {
			return err
		}
		return replaceFile(meta, metadataFile, b)
	})
}

// Templates gives the names of an instance's template files.
func (s *Set) Templates(ctx context.Context, name string) ([]string, error) {
	meta, err := s.meta(ctx, name)
	if err != nil {
		return nil, err
	}
	defer meta.Close()
	entries, err := fs.ReadDir(meta.FS(), templateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{}, nil
	}
	list := []string{}
	for _, e := range entries {
		if e.Type().IsRegular() {
			list = append(list, e.Name())
		}
	}
	return list, err
}

// Template reads one template file. Errors: NotFound, Invalid.
func (s *Set) Template(ctx context.Context, name, file string) ([]byte, error) {
	if err := checkTemplateName(file); err != nil {
		return nil, err
	}
	meta, err := s.meta(ctx, name)
	if err != nil {
		return nil, err
	}
	defer meta.Close()
	return readTemplate(meta, name, file)
}

func readTemplate(meta *os.Root, instance, file string) ([]byte, error) {
	b, err := readFile(meta, path.Join(templateDir, file), template.MaxSource)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.NotFound, "instance %q has no template %q", instance, file)
	}
	return b, err
}

// SetTemplate writes one template file, if check has nothing against what was in it: nil for
// none. Errors: NotFound, Invalid, TooLarge, and those of check.
func (s *Set) SetTemplate(ctx context.Context, name, file string, content []byte, check func(old []byte) error) error {
	if err := checkTemplateName(file); err != nil {
		return err
	}
	if len(content) > template.MaxSource {
		return kiln.Errorf(kiln.TooLarge, "template %q is larger than %d bytes", file, template.MaxSource)
	}
	return s.editMeta(ctx, name, func(meta *os.Root) error {
		old, err := readTemplate(meta, name, file)
		if errors.Is(err, kiln.NotFound) {
			err = nil
		}
		if err := cmp.Or(err, check(old)); err != nil {
			return err
		}
		if err := meta.Mkdir(templateDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return replaceFile(meta, path.Join(templateDir, file), content)
	})
}

// DeleteTemplate removes one template file, as SetTemplate writes one. Errors: NotFound,
// Invalid, and those of check.
func (s *Set) DeleteTemplate(ctx context.Context, name, file string, check func(old []byte) error) error {
	if err := checkTemplateName(file); err != nil {
		return err
	}
	return s.editMeta(ctx, name, func(meta *os.Root) error {
		old, err := readTemplate(meta, name, file)
		if err == nil {
			err = check(old)
		}
		if err != nil {
			return err
		}
		return meta.Remove(path.Join(templateDir, file))
	})
}

func checkTemplateName(file string) error {
	if file == "" || file == "." || file == ".." || path.Base(file) != file {
		return kiln.Errorf(kiln.Invalid, "%q is not a plain file name", file)
	}
	return nil
}

// meta opens an instance's metadata and templates for reading.
func (s *Set) meta(ctx context.Context, name string) (*os.Root, error) {
	vol, err := s.volumeOf(ctx, name)
	if err != nil {
		return nil, err
	}
	return vol.Meta()
}

// editMeta changes an instance's own copy of the metadata and templates.
func (s *Set) editMeta(ctx context.Context, name string, f func(*os.Root) error) error {
	ctx, err := s.Meaning(ctx, name, "")
	if err != nil {
		return err
	}
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	vol, err := s.volumeOf(ctx, name)
	if err != nil {
		return err
	}
	meta, err := vol.EditMeta(ctx)
	if err != nil {
		return err
	}
	defer meta.Close()
	return f(meta)
}

// replaceFile puts a new file in the place of another, whole or not at all, also when
// the power goes.
func replaceFile(dir *os.Root, name string, content []byte) error {
	temp := path.Join(path.Dir(name), "."+path.Base(name)+".new")
	f, err := disk.OpenFileIn(dir, temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, disk.Sync(f), f.Close()); err != nil {
		return errors.Join(err, dir.Remove(temp))
	}
	if err := dir.Rename(temp, name); err != nil {
		return err
	}
	parent, err := dir.Open(path.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(disk.Sync(parent), parent.Close())
}
