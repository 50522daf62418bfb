package instance

import (
	"context"
	"errors"
	"maps"
	"strconv"
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
	// What the row's last change could be refused for, before anything is lost for it.
	if err := s.db.TryInstance(ctx, instance, func(r *db.Instance) error { become(r, snap); return nil }); err != nil {
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

// finishRestore makes the files and then the row what they were. When the files can't be, the
// instance is what it was before. When it is the row that can't, the restore is still to be
// finished: a start does that first, so that nothing is written between the two.
func (s *Set) finishRestore(ctx context.Context, instance, volume string, snap db.Snapshot) error {
	err := snap.Whole()
	if err == nil {
		err = filesOfSnapshot(instance, snap.Name, s.pool.Restore(ctx, volume, snap.Files))
	}
	if err != nil {
		err = kiln.Errorf(kiln.KindOf(err), "restore instance %q: %w", instance, err)
		return errors.Join(err, s.edit(ctx, instance, func(r *db.Instance) { delete(r.Config, restoreKey) }))
	}
	return s.db.SettleInstance(ctx, instance, func(r *db.Instance) error { become(r, snap); return nil })
}

// become makes a row what it was at a snapshot.
func become(r *db.Instance, snap db.Snapshot) {
	config := maps.Clone(snap.Config)
	if config == nil {
		config = map[string]string{}
	}
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
}

// finishRestores does what the last daemon had begun when it died. An instance that runs has
// written since, so its files stay: it never runs between the two halves of a restore.
func (s *Set) finishRestores(ctx context.Context, rows []db.Instance) {
	for _, r := range rows {
		if r.Config[restoreKey] == "" {
			continue
		}
		ctx, err := s.in(ctx, r.Project)
		if err == nil {
			err = s.finishPending(ctx, r.Name, r.Config)
		}
		if err != nil {
			s.warn("finish the restore of instance "+strconv.Quote(r.Name), err)
		}
	}
}

// finishPending finishes a restore that an instance's configuration tells of, if there is one.
func (s *Set) finishPending(ctx context.Context, instance string, config map[string]string) error {
	name := config[restoreKey]
	if name == "" {
		return nil
	}
	l, err := s.look(db.Instance{Config: config})
	if err != nil {
		return err
	}
	if l != nil {
		return errors.Join(kiln.Errorf(kiln.Conflict, "it runs, and keeps what it has; to have what was in snapshot %q, "+
			"restore it again", name), s.edit(ctx, instance, func(r *db.Instance) { delete(r.Config, restoreKey) }))
	}
	snap, err := s.db.Snapshot(ctx, instance, name)
	if errors.Is(err, kiln.NotFound) { // it was deleted, and the restore ends
		snap, err = db.Snapshot{Instance: instance, Name: name}, nil
	}
	if err != nil {
		return err
	}
	return s.finishRestore(ctx, instance, config[UUIDKey], snap)
}
