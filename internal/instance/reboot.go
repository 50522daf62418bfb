package instance

import (
	"context"
	"strconv"
)

// rebooted gives an instance that rebooted by itself the limits and devices of today; liblxc has
// started it again already.
func (s *Set) rebooted(ctx context.Context, name string, l *live) {
	if err := s.limitAgain(ctx, name, l); err != nil && ctx.Err() == nil {
		s.warn("limits of instance "+strconv.Quote(name)+" after its reboot", err)
	}
	// Whoever works on the instance may be waiting for its end, which is told to nobody yet.
	s.wg.Go(func() {
		for _, err := range s.mend(ctx, name, l) {
			if err != nil && ctx.Err() == nil {
				s.warn("devices of instance "+strconv.Quote(name)+" after its reboot", err)
			}
		}
	})
	if err := s.setReady(ctx, name, false); err != nil && ctx.Err() == nil {
		s.warn("instance "+strconv.Quote(name)+" isn't ready after its reboot", err)
	}
	s.notify(ctx, Change{Name: name, Action: "restarted"})
}
