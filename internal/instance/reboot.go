package instance

import (
	"errors"
	"slices"
	"strconv"

	"github.com/kiln-containers/kiln"
)

// rebooted sees to an instance that rebooted by itself: it has what a start would give
// it. liblxc has started it again already; that is enough but for templates, which are
// rendered before init runs. again reports that the instance was ended, and is to be
// started by the set.
func (s *Set) rebooted(name string, l *live) (again bool) {
	warn := func(what string, err error) {
		if s.ctx.Err() == nil {
			s.warn(what+" of instance "+strconv.Quote(name)+" after its reboot", err)
		}
	}
	if s.rendersAtStart(name) {
		// Its next daemon goes on with that.
		err := s.planRestart(s.ctx, name, true)
		if err == nil {
			if err = l.box.Abort(s.ctx); err == nil {
				return true
			}
			err = errors.Join(err, s.dropRestart(s.ctx, name))
		}
		warn("templates", err)
	}
	if err := s.limitAgain(s.ctx, name, l); err != nil {
		warn("limits", err)
	}
	s.notify(s.ctx, Change{Name: name, Action: "restarted"})
	return false
}

// rendersAtStart reports whether an instance has templates for each start.
func (s *Set) rendersAtStart(name string) bool {
	r, err := s.db.Instance(s.ctx, name)
	if err != nil {
		return false
	}
	vol, err := s.pool.Get(r.Config[UUIDKey])
	if err != nil {
		return false
	}
	meta, err := vol.Meta()
	if err != nil {
		return false
	}
	defer meta.Close()
	m, err := readMetadata(meta)
	if err != nil {
		return false
	}
	for _, t := range m.Templates {
		if t != nil && slices.Contains(t.When, "start") {
			return true
		}
	}
	return false
}

// startAfterReboot starts an instance that rebooted was told to end. Somebody else may
// have wanted something else meanwhile.
func (s *Set) startAfterReboot(name string, asked bool) {
	if s.suspended.Load() {
		return // the next daemon does
	}
	var err error
	if !asked {
		err = s.startLocked(s.ctx, name)
	}
	if asked || err != nil && s.ctx.Err() == nil {
		err = errors.Join(err, s.dropRestart(s.ctx, name))
	}
	if err != nil && s.ctx.Err() == nil && !errors.Is(err, kiln.NotFound) {
		s.warn("start instance "+strconv.Quote(name)+" after its reboot", err)
	}
}
