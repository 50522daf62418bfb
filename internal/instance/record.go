package instance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
)

// RecordsDir is where the records of instances are, in the directory that has their
// boxes as well: records/<uuid>.json.
const RecordsDir = "records"

// A record is what is kept of an instance's row outside of the database, so that what is
// made anew of its files has its name and configuration. It is written after the row, and
// nothing but recovery reads it: the row is what counts.
type record struct {
	Name         string                       `json:"name"`
	Project      string                       `json:"project"`
	Type         string                       `json:"type"`
	Architecture string                       `json:"architecture"`
	Description  string                       `json:"description"`
	Ephemeral    bool                         `json:"ephemeral"`
	CreatedAt    time.Time                    `json:"created_at"`
	Base         string                       `json:"base"` // fingerprint of the image; "": none
	Config       map[string]string            `json:"config"`
	Devices      map[string]map[string]string `json:"devices"`
	Profiles     []string                     `json:"profiles"`
}

// maxRecord bounds what is read of a record, in bytes.
const maxRecord = 16 << 20

func recordPath(dir, uuid string) string { return filepath.Join(dir, RecordsDir, uuid+".json") }

// keepRecord writes the record of an instance as its row is now. Nothing that anybody
// asked for depends on it, so a failure is told and no error.
func (s *Set) keepRecord(ctx context.Context, name string) {
	r, err := s.db.Instance(context.WithoutCancel(ctx), name)
	if err == nil {
		err = writeRecord(filepath.Dir(s.dir), r)
	}
	if err != nil && !errors.Is(err, kiln.NotFound) { // deleted meanwhile
		s.warn("keep the record of instance "+strconv.Quote(name)+" for kiln admin recover", err)
	}
}

// writeRecord writes the record of a row, unless it is there like that.
func writeRecord(dir string, r db.Instance) error {
	uuid := r.Config[UUIDKey]
	if uuid == "" || strings.ContainsRune(uuid, '/') || r.Damage != "" {
		return nil // the last record is better
	}
	base := ""
	if !r.Base.IsZero() {
		base = r.Base.String()
	}
	b, err := json.MarshalIndent(record{Name: r.Name, Project: "default", Type: r.Type, Architecture: r.Architecture,
		Description: r.Description, Ephemeral: r.Ephemeral, CreatedAt: r.CreatedAt, Base: base, Config: r.Config,
		Devices: r.Devices, Profiles: r.Profiles}, "", "\t")
	if err != nil {
		return err
	}
	if has, err := os.ReadFile(recordPath(dir, uuid)); err == nil && bytes.Equal(has, b) {
		return nil
	}
	return disk.WriteBytes(recordPath(dir, uuid), 0o600, b)
}

// Recorded gives the row that an instance's files had, from their record in a daemon's
// directory. Errors: NotFound, Integrity for a record that can't be of these files.
func Recorded(dir, uuid string) (db.Instance, error) {
	f, err := os.Open(recordPath(dir, uuid))
	if errors.Is(err, fs.ErrNotExist) {
		return db.Instance{}, kiln.Errorf(kiln.NotFound, "there is no record of the volume %s", uuid)
	}
	if err != nil {
		return db.Instance{}, err
	}
	defer f.Close()
	var r record
	damaged := func(err error) (db.Instance, error) {
		return db.Instance{}, kiln.Errorf(kiln.Integrity, "the record %s is damaged: %w", f.Name(), err)
	}
	if err := json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&r); err != nil {
		return damaged(err)
	}
	if err := kiln.CheckInstanceName(r.Name); err != nil {
		return damaged(err)
	}
	if r.Config[UUIDKey] != uuid {
		return damaged(fmt.Errorf("it is of the volume %q", r.Config[UUIDKey]))
	}
	var base kiln.Fingerprint
	if r.Base != "" {
		if base, err = kiln.ParseFingerprint(r.Base); err != nil {
			return damaged(err)
		}
	}
	return db.Instance{Name: r.Name, Type: r.Type, Architecture: r.Architecture, Description: r.Description,
		Ephemeral: r.Ephemeral, CreatedAt: r.CreatedAt, Base: base, Config: r.Config, Devices: r.Devices,
		Profiles: r.Profiles}, nil
}

// sweepRecords writes the records that aren't as their rows are, or missing, and removes
// those whose files are nowhere any more, not even put away.
func (s *Set) sweepRecords(ctx context.Context, rows []db.Instance) error {
	dir := filepath.Dir(s.dir)
	keep := map[string]bool{}
	for _, r := range rows {
		keep[r.Config[UUIDKey]] = true
		s.keepRecord(ctx, r.Name)
	}
	volumes, err := s.pool.List()
	lost, lerr := s.pool.Lost()
	if err := errors.Join(err, lerr); err != nil {
		return err
	}
	for _, name := range volumes {
		keep[name] = true
	}
	for _, l := range lost {
		keep[l.Name] = true
	}
	entries, err := os.ReadDir(filepath.Join(dir, RecordsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if uuid, ok := strings.CutSuffix(e.Name(), ".json"); ok && !keep[uuid] {
			errs = append(errs, os.Remove(filepath.Join(dir, RecordsDir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
