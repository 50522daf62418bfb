package instance

import (
	"context"
	"errors"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// Restart stops and starts an instance, also an ephemeral one. When the daemon dies
// meanwhile the next one finishes it. Errors: as of Stop and Start.
func (s *Set) Restart(ctx context.Context, name string, timeout time.Duration, force bool) error {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.get(ctx, name); err != nil {
		return err
	}
	if err := s.planRestart(ctx, name, force); err != nil {
		return err
	}
	if err := s.stop(ctx, name, timeout, force); err != nil {
		return errors.Join(err, s.dropRestart(ctx, name))
	}
	return s.startAgain(ctx, name)
}

// planRestart writes down that an instance is to run again after it was stopped.
func (s *Set) planRestart(ctx context.Context, name string, force bool) error {
	how := "clean"
	if force {
		how = "force"
	}
	return s.edit(ctx, name, func(r *db.Instance) { r.Config[restartKey] = how })
}

// dropRestart takes back what planRestart wrote.
func (s *Set) dropRestart(ctx context.Context, name string) error {
	return s.edit(context.WithoutCancel(ctx), name, func(r *db.Instance) { delete(r.Config, restartKey) })
}

// startAgain starts what was stopped to be started again: nobody can want it to stay
// half done. When it can't be started it isn't tried again by the next daemon.
func (s *Set) startAgain(ctx context.Context, name string) error {
	if err := s.start(context.WithoutCancel(ctx), name); err != nil {
		return errors.Join(err, s.dropRestart(ctx, name))
	}
	return nil
}

// finishRestart does what the last daemon had begun when it died. It is the turn of whoever
// calls it.
func (s *Set) finishRestart(ctx context.Context, i Instance) error {
	err := s.stop(ctx, i.Name, 0, i.Options[restartKey] == "force")
	if err != nil && !errors.Is(err, kiln.Conflict) { // it may have stopped before
		return errors.Join(err, s.dropRestart(ctx, i.Name))
	}
	return s.startAgain(ctx, i.Name)
}
