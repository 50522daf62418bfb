package instance

import "strconv"

// rebooted gives an instance that rebooted by itself the limits of today; liblxc has
// started it again already.
func (s *Set) rebooted(name string, l *live) {
	if err := s.limitAgain(s.ctx, name, l); err != nil && s.ctx.Err() == nil {
		s.warn("limits of instance "+strconv.Quote(name)+" after its reboot", err)
	}
	s.notify(s.ctx, Change{Name: name, Action: "restarted"})
}
