package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// SaveRecords writes the records of some instances beside their volumes where they
// aren't as the rows say; without names, of every project. The row is the truth and the record a
// copy of it: one that can't be written is told, and keeps nobody from anything. A
// record of a row that is damaged stays as it is, as it is the better copy.
func (s *Set) SaveRecords(ctx context.Context, names ...db.Name) error {
	ctx = project.InAll(ctx)
	profiles, err := s.profilesOf(ctx)
	if err != nil {
		return err
	}
	var errs []error
	save := func(row db.Instance, snapshots []db.Snapshot) {
		if err := s.saveRecord(row, snapshots, profiles(row.Project).list); err != nil {
			errs = append(errs, fmt.Errorf("write the record of instance %q: %w", row.Name, err))
		}
	}
	for _, name := range names {
		in := project.In(ctx, project.Alone(name.Project))
		row, err := s.db.Instance(in, name.Name)
		if errors.Is(err, kiln.NotFound) {
			continue // deleted or renamed meanwhile
		}
		snapshots, serr := s.db.Snapshots(in, name.Name)
		if err := errors.Join(err, serr); err != nil {
			return errors.Join(append(errs, err)...)
		}
		save(row, snapshots)
	}
	if len(names) > 0 {
		return errors.Join(errs...)
	}
	rows, err := s.db.Instances(ctx)
	all, serr := s.db.AllSnapshotFiles(ctx)
	if err := errors.Join(err, serr); err != nil {
		return err
	}
	has := map[db.Name]bool{}
	for _, snap := range all {
		has[db.Name{Project: snap.Project, Name: snap.Instance}] = true
	}
	for _, row := range rows {
		var snapshots []db.Snapshot // those of all instances at once may be large
		if has[db.Name{Project: row.Project, Name: row.Name}] {
			snapshots, err = s.db.Snapshots(project.In(ctx, project.Alone(row.Project)), row.Name)
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		save(row, snapshots)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// saveRecord writes the record of one instance, unless it is written.
func (s *Set) saveRecord(row db.Instance, snapshots []db.Snapshot, profiles map[string]Profile) error {
	uuid := row.Config[UUIDKey]
	if row.Damage != "" || uuid == "" {
		return nil
	}
	r := Record{Instance: row, Snapshots: snapshots}
	used := append([]string(nil), row.Profiles...)
	for _, snap := range snapshots {
		if snap.Damage != "" {
			return nil
		}
		used = append(used, snap.Profiles...)
	}
	seen := map[string]bool{}
	for _, name := range used {
		p, ok := profiles[name]
		if p.Damage != "" {
			return nil
		}
		if ok && !seen[name] {
			r.Profiles = append(r.Profiles, p)
		}
		seen[name] = true
	}
	b, err := r.Encode()
	if err != nil {
		return err
	}
	if has, err := s.pool.Note(uuid); err == nil && bytes.Equal(bytes.TrimSpace(has), b) {
		return nil
	}
	var without error
	if len(b) > volume.MaxNote { // profiles may change at any time; others have them as well
		r.Profiles = nil
		without = kiln.Errorf(kiln.TooLarge, "its profiles are too large, and left out")
		if b, err = r.Encode(); err != nil {
			return err
		}
	}
	err = errors.Join(s.pool.SetNote(uuid, b), without)
	if errors.Is(err, kiln.NotFound) {
		return nil // it has no files, and so nothing needs a record
	}
	return err
}
