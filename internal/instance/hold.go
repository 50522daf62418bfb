package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/project"
)

// heldFile is in the directory of a box that the daemon has frozen, and that the
// next one lets go on if this one dies.
const heldFile = "held"

// holdTimeout bounds how long an instance may take to stand still: a process that
// waits for a disk or a network file system can't be stopped. A Set may have another bound.
const holdTimeout = 10 * time.Second

// bound is how long the processes of an instance may take to stand still, and to go on.
func (l *live) bound() time.Duration { return cmp.Or(l.holdTime, holdTimeout) }

// mostReboots is how many times an instance may reboot while it is to stand still.
const mostReboots = 5

// hold freezes an instance for a moment and gives the function that lets it go on.
// One that is paused already stays so; one that ends meanwhile stands still enough.
func (s *Set) hold(ctx context.Context, i Instance, l *live) (func() error, error) {
	served, err := s.pauseFiles(i.Options[UUIDKey])
	if err != nil {
		return nil, fmt.Errorf("files of instance %q: %w", i.Name, err)
	}
	if l.box.Frozen() {
		return func() error { served(); return nil }, nil
	}
	mark := filepath.Join(s.boxDir(db.Instance{Config: i.Options}), heldFile)
	if err := disk.WriteUnsynced(mark, 0o600, nil); err != nil {
		served()
		return nil, err
	}
	l.held.Store(true)
	resume := func() error {
		defer l.held.Store(false)
		defer served()
		ctx := context.WithoutCancel(ctx)
		err := l.thaw(ctx, i.Name)
		if err != nil && l.ends(ctx) {
			err = nil
		}
		return errors.Join(err, removeIfThere(mark))
	}
	bound, cancel := l.standStill(ctx, i.Name)
	defer cancel()
	for tries := 0; ; tries++ {
		life := l.box.Life()
		err = l.box.Freeze(bound)
		if err != nil && l.ends(bound) {
			err = nil
		}
		if err == nil || tries == mostReboots || bound.Err() != nil || !l.box.EndedSince(life) {
			break
		}
		_ = l.box.Begun(bound) // it rebooted; what is wrong is told by the next try
	}
	if err != nil {
		if rerr := resume(); !errors.Is(rerr, kiln.Unsupported) { // else it says the same
			err = errors.Join(err, rerr)
		}
		return nil, err
	}
	return resume, nil
}

// standStill bounds how long the processes of an instance may take to stand still.
func (l *live) standStill(ctx context.Context, name string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, l.bound(), kiln.Errorf(kiln.Timeout,
		"the processes of instance %q did not stand still within %v; stop it, then try again", name, l.bound()))
}

// quietTime is how long other work on instances may take that are to stand still together.
const quietTime = 30 * time.Second

// HoldAll freezes those of some instances that run for a moment, and gives the function that
// lets them go on. Until then none of them starts, ends or changes. With stopped none may
// run: the error is Conflict then.
func (s *Set) HoldAll(ctx context.Context, names []db.Name, stopped bool) (resume func() error, err error) {
	var done []func() error
	resume = func() error {
		var errs []error
		for _, f := range slices.Backward(done) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	undo := func(err error) (func() error, error) { return nil, errors.Join(err, resume()) }
	waiting, cancel := turn(ctx, quietTime)
	defer cancel()
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b db.Name) int { // as everybody does who locks several
		return cmp.Or(strings.Compare(a.Project, b.Project), strings.Compare(a.Name, b.Name))
	})
	var run []Instance
	for _, n := range names { // all of them before any is frozen
		in, err := s.in(waiting, n.Project)
		if err != nil {
			return undo(err)
		}
		in, unlock, err := s.lock(in, n.Name)
		if err != nil {
			return undo(err)
		}
		done = append(done, func() error { unlock(); return nil })
		i, err := s.Get(in, n.Name)
		if errors.Is(err, kiln.NotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return undo(err)
		}
		l, err := s.look(db.Instance{Config: i.Options})
		switch {
		case l == nil && err == nil:
		case (stopped || err != nil) && IsRestricted(ctx) && n.Project != project.Name(ctx):
			return undo(kiln.Errorf(kiln.Conflict, "an instance of another project runs that has it"))
		case err != nil:
			return undo(kiln.Errorf(kiln.Conflict, "instance %q, which has it: %w", n.Name, err))
		case stopped:
			return undo(kiln.Errorf(kiln.Conflict, "instance %q runs and has it; stop it, or detach the volume from it, first",
				n.Name))
		default:
			run = append(run, i)
		}
	}
	for _, i := range run {
		l := s.runs(i.Options[UUIDKey])
		if l == nil {
			continue // it has ended by itself
		}
		again, err := s.hold(ctx, i, l)
		if err != nil {
			return undo(err)
		}
		done = append(done, again)
	}
	return resume, nil
}

// ends reports whether an instance is gone, or nearly.
func (l *live) ends(ctx context.Context) bool {
	for begun := time.Now(); time.Since(begun) < l.bound(); {
		if _, err := l.box.Usage(); !errors.Is(err, kiln.NotFound) {
			return false // it has processes, perhaps again
		}
		select {
		case <-l.gone:
			return true
		case <-time.After(endsPoll):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// endsPoll is how often one that may have ended is looked at.
const endsPoll = 5 * time.Millisecond

// letGo lets an instance go on that the last daemon had frozen when it died.
func (s *Set) letGo(ctx context.Context, r db.Instance, b *box.Box) error {
	mark := filepath.Join(s.boxDir(r), heldFile)
	if _, err := os.Stat(mark); err != nil {
		return nil
	}
	if b.Frozen() {
		if err := (&live{box: b}).thaw(ctx, r.Name); err != nil {
			return err
		}
	}
	return removeIfThere(mark)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
