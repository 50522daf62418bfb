package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/template"
	"github.com/kiln-containers/kiln/internal/volume"
)

// PackOptions say how images are made from instances.
type PackOptions struct {
	Properties  map[string]string // nil: those of the instance's metadata
	ExpiresAt   time.Time         // zero: as the metadata say
	Compression string            // one of archive.Compressions
	Dir         string            // for temporary files
}

// Pack gives a source of images that are made from instances and snapshots, by
// name: "c1", "c1/snap0". The same files always become the same image.
func (s *Set) Pack(o PackOptions) kiln.Source { return packer{s, o} }

type packer struct {
	set *Set
	PackOptions
}

// Find is kiln.Source's.
func (p packer) Find(ctx context.Context, name string) (kiln.Image, error) {
	if err := archive.CheckCompression(p.Compression); err != nil {
		return kiln.Image{}, err
	}
	instance, snap, ofSnapshot := strings.Cut(name, "/")
	img := kiln.Image{Type: "container", Filename: name}
	if ofSnapshot {
		row, err := p.set.snapshotRow(ctx, instance, snap)
		img.Architecture = row.Architecture
		return img, err
	}
	row, err := p.set.db.Instance(ctx, instance)
	img.Architecture = row.Architecture
	return img, err
}

// Open is kiln.Source's. What is packed is a snapshot that only the stream knows,
// so the instance may go on, and everything else may be deleted.
func (p packer) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	files := uuid.NewString()
	if err := p.set.snapshotFor(ctx, img.Filename, files); err != nil {
		return nil, err
	}
	drop := func() error { return p.set.pool.DeleteSnapshots(context.WithoutCancel(ctx), files) }
	snap, err := p.set.pool.GetSnapshot(files)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	st := &packStream{PipeReader: r, cancel: cancel, done: make(chan error, 1), drop: drop}
	go func() {
		err := p.write(ctx, w, snap, img)
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // of which programs that are killed know nothing
		}
		st.done <- w.CloseWithError(err)
	}()
	return st, nil
}

// snapshotFor makes a snapshot without a row, of an instance or of a snapshot.
func (s *Set) snapshotFor(ctx context.Context, name, files string) error {
	instance, snap, ofSnapshot := strings.Cut(name, "/")
	unlock, err := s.names.lock(ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	if ofSnapshot {
		row, err := s.snapshotRow(ctx, instance, snap)
		if err != nil {
			return err
		}
		return s.pool.CopySnapshot(ctx, row.Files, files)
	}
	i, err := s.Get(ctx, instance)
	if err != nil {
		return err
	}
	_, err = s.pool.Snapshot(ctx, i.Options[uuidKey], files, s.pause(i))
	return err
}

// packStream is the one file of an image while it is made.
type packStream struct {
	*io.PipeReader
	given  bool
	cancel context.CancelFunc
	done   chan error
	drop   func() error
}

// Next is kiln.Stream's.
func (st *packStream) Next() (kiln.File, error) {
	if st.given {
		return kiln.File{}, io.EOF
	}
	st.given = true
	return kiln.File{Role: kiln.Unified, Size: -1}, nil
}

// Close ends the making, also before its end.
func (st *packStream) Close() error {
	st.cancel()
	return errors.Join(st.PipeReader.Close(), <-st.done, st.drop())
}

func (p packer) write(ctx context.Context, w io.Writer, snap *volume.Snapshot, img kiln.Image) error {
	tree, err := snap.Mount(ctx, nil)
	if err != nil {
		return err
	}
	defer tree.Close()
	m, templates, err := p.metadata(snap, img)
	if err != nil {
		return err
	}
	yaml, err := m.YAML()
	if err != nil {
		return err
	}
	z, err := archive.Compress(ctx, w, p.Compression, p.Dir)
	if err != nil {
		return err
	}
	out := archive.NewPacker(z)
	out.NoACLs = p.Compression == "squashfs"
	// The metadata come first: whoever reads the image wants them at once.
	if err := out.AddFile(metadataFile, yaml, m.Created()); err != nil {
		return errors.Join(err, z.Close())
	}
	root, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", tree.Fd())) // a mount's own file can't be read
	if err != nil {
		return errors.Join(err, z.Close())
	}
	defer root.Close()
	if err := out.AddTree(ctx, root, "rootfs"); err != nil {
		return errors.Join(err, z.Close())
	}
	for _, t := range templates {
		if err := out.AddFile(path.Join(templateDir, t.name), t.text, m.Created()); err != nil {
			return errors.Join(err, z.Close())
		}
	}
	return errors.Join(out.Close(), z.Close())
}

// templateText is a file of templates/.
type templateText struct {
	name string
	text []byte
}

// metadata gives the metadata of the image to be: the instance's own, so that its
// templates go along.
func (p packer) metadata(snap *volume.Snapshot, img kiln.Image) (*format.Metadata, []templateText, error) {
	m := &format.Metadata{}
	var templates []templateText
	meta, err := snap.Meta()
	if err == nil {
		defer meta.Close()
		if m, err = readMetadata(meta); err == nil {
			templates, err = readTemplates(meta)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		m, err = &format.Metadata{}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if m.Architecture == "" {
		m.Architecture, m.CreationDate = img.Architecture, time.Now().Unix()
	}
	if p.Properties != nil {
		m.Properties = p.Properties
	}
	m.ExpiryDate = 0 // that of the image it was made from
	if !p.ExpiresAt.IsZero() {
		m.ExpiryDate = p.ExpiresAt.Unix()
	}
	return m, templates, nil
}

func readTemplates(meta *os.Root) ([]templateText, error) {
	entries, err := fs.ReadDir(meta.FS(), templateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []templateText
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := readFile(meta, path.Join(templateDir, e.Name()), template.MaxSource)
		if err != nil {
			return nil, err
		}
		list = append(list, templateText{e.Name(), b})
	}
	slices.SortFunc(list, func(a, b templateText) int { return strings.Compare(a.name, b.name) })
	return list, err
}
