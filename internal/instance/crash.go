package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// crashKey says why an instance isn't started again by itself any more, until
// somebody starts it.
const crashKey = "volatile.crash_loop"

const (
	shortLife = 10 * time.Second // of an instance that ends before that something is wrong
	mostShort = 10               // such lives in a row
)

// mayGoOn notes that an instance ended or rebooted by itself after some time. It
// reports whether it may begin again: one that ends within seconds each time may not,
// since it would keep the host busy for ever.
func (s *Set) mayGoOn(uuid string, lived time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lived >= shortLife {
		delete(s.short, uuid)
		return true
	}
	s.short[uuid]++
	return s.short[uuid] < mostShort
}

// shortLives is how many times in a row an instance ended within seconds.
func (s *Set) shortLives(uuid string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.short[uuid]
}

// forgetCrashes lets an instance begin as often as any other.
func (s *Set) forgetCrashes(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.short, uuid)
}

// giveUp writes down that an instance doesn't begin again by itself.
func (s *Set) giveUp(ctx context.Context, name string, last error) {
	why := fmt.Sprintf("it ended or rebooted %d times in a row within %v of its start, last at %s", mostShort, shortLife,
		time.Now().UTC().Format(time.RFC3339))
	if last != nil {
		why += ": " + last.Error()
	}
	err := s.edit(ctx, name, func(r *db.Instance) { r.Config[crashKey] = why })
	s.warn("instance "+strconv.Quote(name)+" isn't started again", errors.Join(errors.New(why), err))
	s.notify(ctx, Change{Name: name, Action: "crash-loop"})
}

// restartPause is how long an instance stays down after something failed before it is started
// again by itself, and longestPause how long at most: each time twice as long.
const (
	restartPause = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

// pauseAfter is how long an instance stays down whose start, or reboot, failed so many times.
func (s *Set) pauseAfter(failed int) time.Duration {
	return min(s.restartPause<<min(max(failed-1, 0), 10), longestPause)
}

// beginAgain starts an instance that ended without anybody having asked, where its
// configuration wants that, or its reboot failed with an error. lived is how long it ran.
// What failed isn't tried again at once, and a stop ends the trying.
func (s *Set) beginAgain(ctx context.Context, name, uuid string, lived time.Duration, reboot error) {
	if !s.mayBegin(ctx, name, uuid, reboot != nil) {
		return
	}
	wait, over := s.awaitStart(ctx, uuid)
	defer over()
	for last := reboot; s.mayBegin(wait, name, uuid, reboot != nil); {
		if !s.mayGoOn(uuid, lived) {
			s.giveUp(ctx, name, last)
			if reboot != nil {
				if err := s.dropRestart(ctx, name); err != nil {
					s.warn("instance "+strconv.Quote(name)+" isn't started again", err)
				}
			}
			return
		}
		if last != nil {
			select {
			case <-wait.Done():
				return
			case <-time.After(s.pauseAfter(s.shortLives(uuid))):
			}
		}
		if last = s.startAwaited(wait, name, uuid, reboot != nil); last == nil {
			return
		}
		lived = 0
	}
}

// mayBegin reports whether an instance is still to be started by itself.
func (s *Set) mayBegin(ctx context.Context, name, uuid string, rebooting bool) bool {
	if ctx.Err() != nil || s.suspended.Load() {
		return false
	}
	i, err := s.Get(ctx, name)
	return err == nil && i.Options[UUIDKey] == uuid && i.Options[crashKey] == "" && i.Status == Stopped &&
		(rebooting || kiln.IsTrue(i.ExpandedConfig["boot.autorestart"]))
}

// startLocked starts an instance when it is its turn.
func (s *Set) startLocked(ctx context.Context, name string) error {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return s.start(ctx, name)
}

// startAwaited starts an instance when it is its turn, if it still is to be then.
func (s *Set) startAwaited(ctx context.Context, name, uuid string, rebooting bool) error {
	ctx, unlock, err := s.lockWhile(ctx, ctx, name) // nobody waits for it, and a stop ends that
	if err != nil {
		return err
	}
	defer unlock()
	if !s.mayBegin(ctx, name, uuid, rebooting) {
		return nil
	}
	return s.start(ctx, name)
}

// awaitStart notes that an instance is about to be started by itself. The context ends when
// somebody stops it; over ends the note.
func (s *Set) awaitStart(ctx context.Context, uuid string) (wait context.Context, over func()) {
	wait, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.awaited[uuid] = cancel
	return wait, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.awaited, uuid)
	}
}

// giveUpStart has an instance not be started by itself any more. It reports whether it was
// to be. The caller has its turn.
func (s *Set) giveUpStart(ctx context.Context, name string) (bool, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	cancel, ok := s.awaited[r.Config[UUIDKey]]
	s.mu.Unlock()
	if !ok {
		return false, nil
	}
	cancel()
	return true, s.dropRestart(ctx, name)
}
