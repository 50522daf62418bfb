package instance

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
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/delta"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/template"
	"github.com/kiln-containers/kiln/internal/volume"
)

// PackOptions say how images are made from instances.
type PackOptions struct {
	Properties  map[string]string // nil: those of the instance's metadata
	ExpiresAt   time.Time         // zero: as the metadata say
	Compression string            // as archive.ParseCompression reads it
	Split       bool              // metadata and root filesystem in a file each
	// When the image says it was made; zero: when the last of its files was changed, so
	// that the same files make the same image on every day.
	Timestamp time.Time
	// KeepMachineID leaves machine-id(5) in the image. Without it, each of its instances
	// makes its own at the first boot.
	KeepMachineID bool
	Visit         *archive.Visit // counts what is remembered of the files; nil: nobody does
}

// encoderKey is the property that tells what an image was compressed with: the same
// files become the same bytes again with that.
const encoderKey = "encoder"

// Pack gives the source of the one image that is made from an instance or a snapshot:
// "c1", "c1/snap0". The same files always become the same image.
func (s *Set) Pack(from string, o PackOptions) kiln.Source {
	p := packer{set: s, from: from, PackOptions: o}
	p.compression, p.bad = archive.ParseCompression(o.Compression)
	return p
}

type packer struct {
	set  *Set
	from string
	PackOptions
	compression archive.Compression
	bad         error // what Compression is not; Find says it
}

// Find implements kiln.Source. It knows one image, whatever it is called.
func (p packer) Find(ctx context.Context, _ string) (kiln.Image, error) {
	if p.bad != nil {
		return kiln.Image{}, p.bad
	}
	for _, t := range []time.Time{p.Timestamp, p.ExpiresAt} {
		if !t.IsZero() && (t.Unix() <= 0 || t.Year() > 9999) {
			return kiln.Image{}, kiln.Errorf(kiln.Invalid, "an image can't tell of %s; its times are from 1970-01-01T00:00:01Z "+
				"to the year 9999", t.UTC().Format(time.RFC3339))
		}
	}
	instance, snap, ofSnapshot := strings.Cut(p.from, "/")
	img := kiln.Image{Type: "container"}
	if ofSnapshot {
		row, err := p.set.wholeSnapshot(ctx, instance, snap)
		img.Architecture = row.Architecture
		return img, err
	}
	row, err := p.set.db.Instance(ctx, instance)
	img.Architecture = row.Architecture
	return img, err
}

// Open implements kiln.Source. What is packed is a snapshot that only the stream knows,
// so the instance may go on, and everything else may be deleted.
func (p packer) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	files := passingName()
	if err := p.set.snapshotFor(ctx, p.from, files); err != nil {
		return nil, err
	}
	drop := func() error { return p.set.pool.DeleteSnapshots(context.WithoutCancel(ctx), files) }
	snap, err := p.set.pool.GetSnapshot(files)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	if p.Timestamp.IsZero() {
		if p.Timestamp, err = snap.LastChange(ctx, time.Now()); err != nil {
			return nil, errors.Join(err, drop())
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	roles := []kiln.Role{kiln.Unified}
	if p.Split {
		roles = []kiln.Role{kiln.Metadata, kiln.Rootfs}
	}
	st := &packStream{ctx: ctx, cancel: cancel, drop: drop, framed: p.compression.Framed()}
	for _, role := range roles {
		st.files = append(st.files,
			packFile{role, func(w, tar io.Writer) error { return p.write(ctx, w, tar, snap, img, role) }})
	}
	return st, nil
}

// snapshotFor makes a snapshot without a row, of an instance or of a snapshot.
func (s *Set) snapshotFor(ctx context.Context, name, files string) error {
	instance, snap, ofSnapshot := strings.Cut(name, "/")
	ctx, unlock, err := s.lock(ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	if ofSnapshot {
		row, err := s.wholeSnapshot(ctx, instance, snap)
		if err != nil {
			return err
		}
		return filesOfSnapshot(instance, snap, s.pool.CopySnapshot(ctx, row.Files, files))
	}
	i, err := s.Get(ctx, instance)
	if err != nil {
		return err
	}
	pause, err := s.pause(i)
	if err != nil {
		return err
	}
	_, err = s.pool.Snapshot(ctx, i.Options[UUIDKey], files, pause)
	return filesOfInstance(instance, err)
}

// fill packs what belongs into a file: the metadata first, since whoever reads the
// image wants them at once.
func (p packer) fill(ctx context.Context, out *archive.Packer, snap *volume.Snapshot, img kiln.Image,
	role kiln.Role) error {
	m, templates, err := p.metadata(snap, img)
	if err != nil {
		return err
	}
	if role != kiln.Rootfs {
		yaml, err := m.YAML()
		if err != nil {
			return err
		}
		if err := out.AddFile(metadataFile, yaml, m.Created()); err != nil {
			return err
		}
	}
	if role != kiln.Metadata {
		if err := p.addTree(ctx, out, snap,
			map[kiln.Role]string{kiln.Unified: "rootfs", kiln.Rootfs: "."}[role]); err != nil {
			return err
		}
	}
	for _, t := range templates {
		if role == kiln.Rootfs {
			break
		}
		if err := out.AddFile(path.Join(templateDir, t.name), t.text, m.Created()); err != nil {
			return err
		}
	}
	return nil
}

func (p packer) addTree(ctx context.Context, out *archive.Packer, snap *volume.Snapshot, below string) error {
	if !p.KeepMachineID {
		// systemd and D-Bus make one where this file is empty and that one is not there.
		out.Empty = map[string]bool{path.Join(below, "etc/machine-id"): true}
		out.Omit = map[string]bool{path.Join(below, "var/lib/dbus/machine-id"): true}
	}
	tree, err := snap.Mount(ctx, nil)
	if err != nil {
		return err
	}
	defer tree.Close()
	root, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", tree.Fd())) // a mount's own file can't be read
	if err != nil {
		return err
	}
	defer root.Close()
	return out.AddTree(ctx, root, below)
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
		m.Architecture = img.Architecture
	}
	if p.Properties != nil {
		m.Properties = p.Properties
	}
	if !p.Timestamp.IsZero() {
		m.CreationDate = p.Timestamp.Unix()
	}
	m.CreationDate = max(m.CreationDate, 1) // files of 1970, and no image before: 0 would be none

	delete(m.Properties, encoderKey) // of the image it was made from
	if p.compression.Framed() {
		m.Properties = maps.Clone(m.Properties)
		if m.Properties == nil {
			m.Properties = map[string]string{}
		}
		m.Properties[encoderKey] = delta.EncoderID
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
