package instance

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// Rebuild gives an instance other files, which were made of n's image: its root
// filesystem begins anew, its configuration and its snapshots stay. With force, one that
// runs is killed before and started after it, also when it fails, and by the next daemon if
// this one dies meanwhile. Errors: NotFound, Conflict, and those of Start.
func (s *Set) Rebuild(ctx context.Context, name string, n New, f *Files, force bool) error {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return err
	}
	if !force || s.running(r) == nil {
		return s.exchange(ctx, name, n, f)
	}
	if err := s.planRestart(ctx, name, true); err != nil {
		return err
	}
	if err := s.stop(ctx, name, 0, true); err != nil && !errors.Is(err, kiln.Conflict) {
		return errors.Join(err, s.dropRestart(ctx, name))
	}
	return errors.Join(s.exchange(ctx, name, n, f), s.startAgain(ctx, name))
}

// exchange gives a stopped instance other files. The row changes in one step; before that
// the instance is as it was, and after it the old volume is garbage.
func (s *Set) exchange(ctx context.Context, name string, n New, f *Files) error {
	old, err := s.stopped(ctx, name, "rebuilt")
	if err != nil {
		return err
	}
	err = s.edit(ctx, name, func(r *db.Instance) {
		for k := range r.Config {
			if strings.HasPrefix(k, "image.") {
				delete(r.Config, k)
			}
		}
		for k, v := range n.Options {
			if strings.HasPrefix(k, "image.") {
				r.Config[k] = v
			}
		}
		delete(r.Config, BaseKey)
		if !n.Base.IsZero() {
			r.Config[BaseKey] = n.Base.String()
		}
		otherFiles(r, f, "create")
		r.Base, r.Architecture = n.Base, n.Architecture
	})
	if err != nil {
		return err
	}
	f.taken = true
	s.notify(ctx, Change{Name: name, Action: "rebuilt"})
	return errors.Join(s.pool.Delete(ctx, old.Config[UUIDKey]), os.RemoveAll(s.boxDir(old)))
}

// otherFiles has the row of an instance name other files than it had, which begin by a trigger of
// templates. Its backups stay with it; a restore of the files that it had can't be finished.
func otherFiles(r *db.Instance, f *Files, trigger string) {
	r.Config[backupsKey] = BackupsOf(r.Config)
	delete(r.Config, olderBackupsKey)
	delete(r.Config, restoreKey)
	r.Config[UUIDKey], r.Config[TemplateKey] = f.UUID, trigger
}
