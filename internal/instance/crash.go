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

// beginAgain starts an instance that ended without anybody having asked, where its
// configuration wants that, or its reboot failed with an error. lived is how long it ran.
func (s *Set) beginAgain(ctx context.Context, name, uuid string, lived time.Duration, reboot error) {
	last := reboot
	for ctx.Err() == nil && !s.suspended.Load() {
		i, err := s.Get(ctx, name)
		if err != nil || i.Options[UUIDKey] != uuid || i.Options[crashKey] != "" || i.Status != Stopped ||
			reboot == nil && !kiln.IsTrue(i.ExpandedConfig["boot.autorestart"]) {
			return
		}
		if !s.mayGoOn(uuid, lived) {
			s.giveUp(ctx, name, last)
			if reboot != nil {
				if err := s.dropRestart(ctx, name); err != nil {
					s.warn("instance "+strconv.Quote(name)+" isn't started again", err)
				}
			}
			return
		}
		if last = s.startLocked(ctx, name); last == nil {
			return
		}
		lived = 0
	}
}

// startLocked starts an instance when it is its turn.
func (s *Set) startLocked(ctx context.Context, name string) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return s.start(ctx, name)
}
