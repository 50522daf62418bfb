package instance

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/kiln-containers/kiln/internal/db"
)

// Rebuild gives a stopped instance other files, which were made of n's image: its root
// filesystem begins anew, its configuration and its snapshots stay. The row changes in
// one step; before that the instance is as it was, and after it the old volume is
// garbage. Errors: NotFound, Conflict.
func (s *Set) Rebuild(ctx context.Context, name string, n New, f *Files) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
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
		r.Config[backupsKey] = BackupsOf(r.Config)
		r.Config[UUIDKey], r.Config[templateKey] = f.UUID, "create"
		r.Base, r.Architecture = n.Base, n.Architecture
	})
	if err != nil {
		return err
	}
	f.taken = true
	s.notify(ctx, Change{Name: name, Action: "rebuilt"})
	return errors.Join(s.pool.Delete(ctx, old.Config[UUIDKey]), os.RemoveAll(s.boxDir(old)))
}
