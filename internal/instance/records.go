package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
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
	save := func(in context.Context, row db.Instance) {
		snapshots := func(add func(db.Snapshot) error) error { return s.db.EachSnapshot(in, row.Name, add) }
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
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		save(in, row)
	}
	if len(names) > 0 {
		return errors.Join(errs...)
	}
	rows, err := s.db.Instances(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		save(project.In(ctx, project.Alone(row.Project)), row)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// errDamaged ends the writing of a record of which a row is damaged.
var errDamaged = errors.New("a row is damaged")

// saveRecord writes the record of one instance, unless it is written.
func (s *Set) saveRecord(row db.Instance, snapshots someSnapshots, profiles map[string]Profile) error {
	uuid := row.Config[UUIDKey]
	if row.Damage != "" || uuid == "" {
		return nil
	}
	write := func(with bool) error {
		return s.pool.SetNoteBy(uuid, func(w io.Writer) error {
			return writeRecordOf(w, row, snapshots, profiles, with)
		})
	}
	err := write(true)
	if errors.Is(err, kiln.TooLarge) { // profiles may change at any time; others have them as well
		err = errors.Join(write(false), kiln.Errorf(kiln.TooLarge, "its profiles are too large, and left out"))
	}
	if errors.Is(err, errDamaged) || errors.Is(err, kiln.NotFound) {
		return nil // the record is the better copy; or it has no files, and so nothing needs one
	}
	return err
}

// writeRecordOf writes what the record of an instance is to be, with or without the profiles
// that are used. The error is errDamaged.
func writeRecordOf(w io.Writer, row db.Instance, snapshots someSnapshots, profiles map[string]Profile,
	with bool) error {
	var used []Profile
	seen := map[string]bool{}
	use := func(names []string) error {
		for _, name := range names {
			p, ok := profiles[name]
			if p.Damage != "" {
				return errDamaged
			}
			if ok && with && !seen[name] {
				used = append(used, p)
			}
			seen[name] = true
		}
		return nil
	}
	if err := use(row.Profiles); err != nil {
		return err
	}
	return writeRecord(w, row, func(add func(db.Snapshot) error) error {
		return snapshots(func(snap db.Snapshot) error {
			if snap.Damage != "" {
				return errDamaged
			}
			return cmp.Or(use(snap.Profiles), add(snap))
		})
	}, func() []Profile { return used })
}
