package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/test/machine"
)

// check looks at machines whose daemons are new, and at what was interrupted on others.
func (s *soak) check(nodes []*node) {
	s.t.Helper()
	for _, n := range s.nodes {
		s.quiet(n)
	}
	for _, n := range s.nodes {
		if slices.Contains(nodes, n) {
			s.checkNode(n, false)
			continue
		}
		for _, t := range n.things {
			if len(t.may) > 1 {
				s.checkThing(t, true)
			}
		}
	}
}

// quiet waits for the operations of a machine to end: who asked for one doesn't wait
// any longer when the other machine's daemon has died.
func (s *soak) quiet(n *node) {
	s.t.Helper()
	var running map[string][]string
	if !s.eventually(func() bool {
		running = nil
		_, err := n.Client().Get(s.t.Context(), "/1.0/operations", nil, &running)
		return err == nil && len(running["running"]) == 0
	}) {
		s.violation("operations of %s don't end: %v", n.name, running)
	}
}

// checkAll looks at everything, into all instances and snapshots.
func (s *soak) checkAll() {
	for _, n := range s.nodes {
		s.checkNode(n, true)
	}
}

func (s *soak) checkNode(n *node, all bool) {
	s.t.Helper()
	chosen := s.random.IntN(len(n.things))
	for i, t := range n.things {
		s.checkThing(t, all || i == chosen || len(t.may) > 1)
		if all || i == chosen {
			s.checkSnapshots(t)
		}
	}
	seen, err := n.instances(s.t.Context())
	if err != nil {
		s.violation("list instances of %s: %v", n.name, err)
	}
	for name := range seen {
		if !slices.ContainsFunc(n.things, func(t *thing) bool { return t.name == name && !t.alias }) {
			s.violation("%s:%s is listed, and nobody made it", n.name, name)
		}
	}
	store, err := n.CheckStore(s.t.Context())
	if err != nil {
		s.violation("look at the images of %s: %v", n.name, err)
	}
	for _, p := range store.Problems {
		s.violation("%s: %s", n.name, p)
	}
	s.checkLeaks(n)
}

// checkThing compares what there is with what there may be. With deep, instances are
// looked into; stopped ones are started for that. A new daemon may still be finishing
// what the last one had begun.
func (s *soak) checkThing(t *thing, deep bool) {
	s.t.Helper()
	var seen state
	var err error
	ok := s.eventually(func() bool {
		if seen, err = t.look(s.t.Context()); err == nil && deep && !t.alias && seen.exists {
			seen.mark, err = s.markOf(t, seen.running)
		}
		return err == nil && slices.ContainsFunc(t.may, func(m state) bool { return m.fits(seen) })
	})
	if ok && t.knownFrom(seen) {
		return
	}
	s.violation("%v is %v (%v), and may be %v; its past:\n%s", t, seen, err, t.may, strings.Join(t.past, "\n"))
	t.become(seen)
}

// look sees a thing from outside.
func (t *thing) look(ctx context.Context) (state, error) {
	if t.alias {
		return t.on.alias(ctx, t.name)
	}
	all, err := t.on.instances(ctx)
	return all[t.name], err
}

// markOf reads the file in an instance.
func (s *soak) markOf(t *thing, running bool) (mark string, err error) {
	if !running {
		if _, err := s.command(t.on, "start", t.name); err != nil {
			return unknown, err
		}
		defer func() {
			_, e := s.command(t.on, "stop", "-f", t.name)
			err = errors.Join(err, e)
		}()
	}
	said, err := s.command(t.on, "exec", t.name, "--", "cat", "/mark")
	return strings.TrimSpace(said.Out), err
}

// checkSnapshots looks into the snapshots of an instance by copies of them.
func (s *soak) checkSnapshots(t *thing) {
	s.t.Helper()
	for name, mark := range t.is().snaps {
		c := &thing{on: t.on, name: "check", may: []state{image(mark)}}
		if _, err := s.command(t.on, "copy", t.name+"/"+name, c.name); err != nil {
			s.violation("copy a snapshot of %v: %v", t, err)
			continue
		}
		s.checkThing(c, true)
		if _, err := s.command(t.on, "delete", "-f", c.name); err != nil {
			s.violation("delete a copy of %v: %v", t, err)
		}
	}
}

// command runs a command that must succeed.
func (s *soak) command(n *node, args ...string) (machine.Said, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), bound)
	defer cancel()
	said, err := n.Run(ctx, args...)
	if err == nil && said.Code != 0 {
		err = fmt.Errorf("kiln %s on %s: exit %d: %s", said.Line, n.name, said.Code, said.Err)
	}
	return said, err
}

// eventually waits for something.
func (s *soak) eventually(is func() bool) bool {
	for end := time.Now().Add(bound / 2); ; time.Sleep(20 * time.Millisecond) {
		if is() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// empty deletes everything, and looks at what is left.
func (s *soak) empty() {
	for _, n := range s.nodes {
		n.remember()
		for _, t := range n.things {
			if !t.alias && t.is().exists {
				if _, err := s.command(n, "delete", "-f", t.name); err != nil {
					s.violation("%v", err)
				}
				t.become(state{})
			}
		}
		list, err := n.Images(s.t.Context())
		if err != nil {
			s.violation("list images of %s: %v", n.name, err)
		}
		for _, img := range list {
			if _, err := s.command(n, "image", "delete", img.Fingerprint); err != nil {
				s.violation("%v", err)
			}
		}
		store, err := n.CheckStore(s.t.Context())
		if err != nil || len(store.Images) > 0 || len(store.Problems) > 0 {
			s.violation("images that are left on %s: %v %v %v", n.name, store.Images, store.Problems, err)
		}
		s.checkLeaks(n)
		s.checkTrees(n)
		n.End(os.Interrupt)
		if left := attached(n.Dir); len(left) > 0 {
			s.violation("%s is gone, and these are left: %v", n.name, left)
		}
	}
	s.t.Logf("%d volumes and snapshots that no row named were put away", s.lost())
}
