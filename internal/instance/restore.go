package instance

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// Restore makes an instance what it was at a snapshot, its files and its
// configuration. One that runs is killed and started again. The snapshots stay.
// Errors: NotFound, Denied, and those of Start.
func (s *Set) Restore(ctx context.Context, instance, name string) error {
	ctx, unlock, err := s.lock(ctx, instance)
	if err != nil {
		return err
	}
	defer unlock()
	i, err := s.Get(ctx, instance)
	if err != nil {
		return err
	}
	snap, err := s.wholeSnapshot(ctx, instance, name)
	if err != nil {
		return err
	}
	if err := s.checkAccess(ctx, "snapshot "+name, snapshotConfig(snap), i.Config); err != nil {
		return err
	}
	if err := s.checkRules(ctx, "snapshot "+name, snapshotConfig(snap), i.Config); err != nil {
		return err
	}
	l, err := s.look(db.Instance{Config: i.Options})
	if err != nil {
		return kiln.Errorf(kiln.Conflict, "instance %q can't be restored: %w", instance, err)
	}
	runs := l != nil
	if runs {
		if err := s.planRestart(ctx, instance, true); err != nil {
			return err
		}
		if err := s.stop(ctx, instance, 0, true); err != nil && !errors.Is(err, kiln.Conflict) {
			return errors.Join(err, s.dropRestart(ctx, instance))
		}
	}
	// From here on it is finished, if not now, then by the next daemon.
	ctx = context.WithoutCancel(ctx)
	err = s.edit(ctx, instance, func(r *db.Instance) { r.Config[restoreKey] = name })
	if err == nil {
		err = s.finishRestore(ctx, instance, i.Options[UUIDKey], snap)
	}
	if err == nil {
		s.notify(ctx, Change{Name: instance, Action: "restored"})
	}
	if runs { // also when it is what it was
		err = errors.Join(err, s.startAgain(ctx, instance))
	}
	return err
}

// finishRestore can be done again. When it fails the instance is what it was.
func (s *Set) finishRestore(ctx context.Context, instance, volume string, snap db.Snapshot) error {
	err := snap.Whole()
	if err == nil {
		err = filesOfSnapshot(instance, snap.Name, s.pool.Restore(ctx, volume, snap.Files))
	}
	if err != nil {
		err = kiln.Errorf(kiln.KindOf(err), "restore instance %q: %w", instance, err)
		return errors.Join(err, s.edit(ctx, instance, func(r *db.Instance) { delete(r.Config, restoreKey) }))
	}
	return s.edit(ctx, instance, func(r *db.Instance) {
		config := maps.Clone(snap.Config)
		// What the host knows of the instance isn't part of its past.
		for k := range config {
			if strings.HasPrefix(k, "volatile.") && k != TemplateKey && k != BaseKey {
				delete(config, k)
			}
		}
		for k, v := range r.Config {
			if strings.HasPrefix(k, "volatile.") && k != TemplateKey && k != BaseKey && k != restoreKey {
				config[k] = v
			}
		}
		r.Architecture, r.Description, r.Ephemeral, r.Base = snap.Architecture, snap.Description, snap.Ephemeral, snap.Base
		r.Config, r.Devices, r.Profiles = config, snap.Devices, snap.Profiles
	})
}

// finishRestores does what the last daemon had begun when it died. Where that
// fails the instance is what it was.
func (s *Set) finishRestores(ctx context.Context, rows []db.Instance) {
	for _, r := range rows {
		if name := r.Config[restoreKey]; name != "" {
			ctx, err := s.in(ctx, r.Project)
			if err != nil {
				continue
			}
			snap := db.Snapshot{Instance: r.Name, Name: name}
			if row, err := s.db.Snapshot(ctx, r.Name, name); err == nil {
				snap = row
			}
			_ = s.finishRestore(ctx, r.Name, r.Config[UUIDKey], snap)
		}
	}
}
