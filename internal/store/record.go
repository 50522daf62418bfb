package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Record is all that rows say of an image: what is kept in a file of its own, so that
// its blobs are more than files when the database is lost.
type Record struct {
	Image  kiln.Image // with its files and aliases
	Events []db.Event // when aliases began to point to it, oldest first
}

// recordFile is the format of a record. When the image was used last is left out: using
// one doesn't write its record.
type recordFile struct {
	Version      int               `json:"version"`
	Project      string            `json:"project,omitempty"` // "": the default one
	Fingerprint  kiln.Fingerprint  `json:"fingerprint"`
	Type         string            `json:"type"`
	Architecture string            `json:"architecture"`
	Filename     string            `json:"filename,omitempty"`
	Properties   map[string]string `json:"properties"`
	Own          map[string]string `json:"own_properties,omitempty"`
	Profiles     []string          `json:"profiles"`
	Public       bool              `json:"public,omitempty"`
	AutoUpdate   bool              `json:"auto_update,omitempty"`
	Cached       bool              `json:"cached,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	ExpiresAt    time.Time         `json:"expires_at"`
	UploadedAt   time.Time         `json:"uploaded_at"`
	ReplacedAt   time.Time         `json:"replaced_at"`
	ReplacedBy   kiln.Fingerprint  `json:"replaced_by"` // zero: by none
	Origin       *kiln.Origin      `json:"origin,omitempty"`
	Files        []recordBlob      `json:"files"`
	Aliases      []recordAlias     `json:"aliases,omitempty"`
	Events       []recordEvent     `json:"history,omitempty"`
}

type (
	recordBlob struct {
		Role kiln.Role        `json:"role"`
		Hash kiln.Fingerprint `json:"hash"`
		Size int64            `json:"size"`
		Name string           `json:"name"`
		Ext  string           `json:"ext"`
	}
	recordAlias struct {
		Name        string `json:"name"`
		Description string `json:"description,omitempty"`
	}
	recordEvent struct {
		Alias        string    `json:"alias"`
		At           time.Time `json:"at"`
		RolledBackAt time.Time `json:"rolled_back_at"`
	}
)

// What a record is bounded by, and the version of its format.
const (
	maxRecord     = 16 << 20
	recordVersion = 1
)

// Encode gives a record as bytes: the same ones for the same record.
func (r Record) Encode() ([]byte, error) {
	i := r.Image
	f := recordFile{
		Version: recordVersion, Project: i.Project, Fingerprint: i.Fingerprint, Type: i.Type, Architecture: i.Architecture,
		Filename: i.Filename, Properties: i.WithSignature(), Own: i.Own, Profiles: i.Profiles, Public: i.Public,
		AutoUpdate: i.AutoUpdate, Cached: i.Cached, CreatedAt: i.CreatedAt, ExpiresAt: i.ExpiresAt,
		UploadedAt: i.UploadedAt, ReplacedAt: i.ReplacedAt, ReplacedBy: i.ReplacedBy, Origin: i.Origin,
	}
	if f.Project == project.Default {
		f.Project = ""
	}
	for _, file := range i.Files {
		f.Files = append(f.Files, recordBlob{file.Role, file.Hash, file.Size, file.Name, file.Ext})
	}
	for _, a := range i.Aliases {
		f.Aliases = append(f.Aliases, recordAlias{a.Name, a.Description})
	}
	for _, e := range r.Events {
		f.Events = append(f.Events, recordEvent(e))
	}
	return json.MarshalIndent(f, "", " ")
}

// ParseRecord reads what Encode wrote. Errors: Integrity for what can't be a record,
// Unsupported for one that a newer kiln wrote.
func ParseRecord(b []byte) (Record, error) {
	var f recordFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Record{}, kiln.Errorf(kiln.Integrity, "the record can't be read: %w", err)
	}
	if f.Version != recordVersion {
		return Record{}, kiln.Errorf(kiln.Unsupported, "the record has version %d, this kiln knows %d", f.Version,
			recordVersion)
	}
	if f.Fingerprint.IsZero() || len(f.Files) == 0 || len(f.Files) > 2 || f.Type != "container" {
		return Record{}, kiln.Errorf(kiln.Integrity, "the record has no fingerprint, is of a %q, or has %d files", f.Type,
			len(f.Files))
	}
	f.Project = cmp.Or(f.Project, project.Default)
	if err := kiln.CheckProjectName(f.Project); err != nil {
		return Record{}, kiln.Errorf(kiln.Integrity, "the record names a project that can't be: %w", err)
	}
	r := Record{Image: kiln.Image{
		Project: f.Project, Fingerprint: f.Fingerprint, Type: f.Type, Architecture: f.Architecture, Filename: f.Filename,
		Properties: f.Properties, Own: f.Own, Profiles: f.Profiles, Public: f.Public, AutoUpdate: f.AutoUpdate,
		Cached: f.Cached, CreatedAt: f.CreatedAt, ExpiresAt: f.ExpiresAt, UploadedAt: f.UploadedAt,
		ReplacedAt: f.ReplacedAt, ReplacedBy: f.ReplacedBy, Origin: f.Origin,
	}}
	r.Image.TakeSignature()
	for n, file := range f.Files {
		roles := []kiln.Role{kiln.Metadata, kiln.Rootfs}
		if len(f.Files) == 1 {
			roles = []kiln.Role{kiln.Unified}
		}
		if file.Role != roles[n] || file.Hash.IsZero() || file.Size < 0 {
			return Record{}, kiln.Errorf(kiln.Integrity, "the record has a file of the role %q, the hash %s and %d bytes",
				file.Role, file.Hash.Short(), file.Size)
		}
		r.Image.Files = append(r.Image.Files, kiln.File{Role: file.Role, Hash: file.Hash, Size: file.Size, Name: file.Name,
			Ext: file.Ext})
		r.Image.Size += file.Size
	}
	for _, a := range f.Aliases {
		if err := kiln.CheckAlias(a.Name); err != nil {
			return Record{}, kiln.Errorf(kiln.Integrity, "the record names an alias %q, which can't be: %w", a.Name, err)
		}
		r.Image.Aliases = append(r.Image.Aliases, kiln.Alias{Name: a.Name, Description: a.Description,
			Target: f.Fingerprint})
	}
	for _, e := range f.Events {
		r.Events = append(r.Events, db.Event(e))
	}
	return r, nil
}

// recordPath is where the record of an image is: <fingerprint>.json, or for one that isn't
// of the default project <fingerprint>.<project>.json.
func (s *Store) recordPath(i db.Image) string {
	name := i.Fingerprint.String()
	if i.Project != project.Default {
		name += "." + i.Project
	}
	return filepath.Join(s.opts.Records, name+".json")
}

// Records gives the images that have a record.
func (s *Store) Records() ([]db.Image, error) {
	entries, err := os.ReadDir(s.opts.Records)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []db.Image
	for _, e := range entries {
		word, in, other := strings.Cut(strings.TrimSuffix(e.Name(), ".json"), ".")
		if !other {
			in = project.Default
		}
		if fp, err := kiln.ParseFingerprint(word); err == nil && kiln.CheckProjectName(in) == nil {
			list = append(list, db.Image{Project: in, Fingerprint: fp})
		}
	}
	return list, err
}

// Record gives the record of an image. Errors: Integrity, Unsupported, TooLarge,
// fs.ErrNotExist.
func (s *Store) Record(i db.Image) (Record, error) {
	b, err := disk.ReadSealed(s.recordPath(i), maxRecord)
	if err != nil {
		return Record{}, err
	}
	r, err := ParseRecord(b)
	if err == nil && r.of() != i {
		err = kiln.Errorf(kiln.Integrity, "the record is of image %s of project %q", r.Image.Fingerprint.Short(),
			r.Image.Project)
	}
	return r, err
}

// of names the image that a record is of.
func (r Record) of() db.Image {
	return db.Image{Project: r.Image.Project, Fingerprint: r.Image.Fingerprint}
}

// SaveRecords writes the records of some images where they aren't as the rows say, and
// removes those of images that were deleted; without any it writes those of every project. The
// row is the truth and the record a copy of it: one that can't be written is told, and
// keeps nobody from anything. A record of a row that is damaged stays as it is, as it
// is the better copy.
func (s *Store) SaveRecords(ctx context.Context, list ...db.Image) error {
	if s.opts.Records == "" {
		return nil
	}
	var errs []error
	for _, i := range list {
		ctx := project.In(ctx, project.Alone(i.Project))
		img, err := s.Get(ctx, i.Fingerprint)
		if errors.Is(err, kiln.NotFound) {
			if err := os.Remove(s.recordPath(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		events, everr := s.db.EventsOf(ctx, i.Fingerprint)
		if err := errors.Join(err, everr); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, s.saveRecord(Record{img, events[i]}))
	}
	if len(list) > 0 {
		return errors.Join(errs...)
	}
	ctx = project.InAll(ctx)
	events, err := s.db.EventsOf(ctx, kiln.Fingerprint{})
	if err != nil {
		return err
	}
	images, err := s.db.Images(ctx, db.ImageQuery{Files: true})
	for _, img := range images {
		errs = append(errs, s.saveRecord(Record{img, events[db.Image{Project: img.Project, Fingerprint: img.Fingerprint}]}))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(append(errs, err)...)
}

// saveRecord writes one record, unless it is written.
func (s *Store) saveRecord(r Record) error {
	if r.Image.Damage != "" {
		return nil
	}
	for _, a := range r.Image.Aliases {
		if a.Damage != "" {
			return nil
		}
	}
	b, err := r.Encode()
	if err == nil {
		has, rerr := disk.ReadSealed(s.recordPath(r.of()), maxRecord)
		if rerr == nil && bytes.Equal(bytes.TrimSpace(has), b) {
			return nil
		}
		err = disk.WriteSealed(s.recordPath(r.of()), 0o600, b)
	}
	if err != nil {
		return fmt.Errorf("write the record of image %s: %w", r.Image.Fingerprint.Short(), err)
	}
	return nil
}
