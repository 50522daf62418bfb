package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/test/machine"
)

// unknown is the mark of a state that nobody looked into.
const unknown = "?"

// A state is what can be seen of an instance or of an alias.
type state struct {
	exists  bool
	running bool
	mark    string            // what the file /mark says, or the property "mark" of the alias's image
	snaps   map[string]string // marks, by name
}

func (s state) String() string {
	if !s.exists {
		return "absent"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "mark %s", s.mark)
	if s.running {
		b.WriteString(" running")
	}
	for _, name := range slices.Sorted(maps.Keys(s.snaps)) {
		fmt.Fprintf(&b, " %s=%s", name, s.snaps[name])
	}
	return b.String()
}

// with gives the state after a change.
func (s state) with(change func(*state)) state {
	s.snaps = maps.Clone(s.snaps)
	if s.snaps == nil {
		s.snaps = map[string]string{}
	}
	change(&s)
	return s
}

// fits reports whether a state can be what was seen.
func (s state) fits(seen state) bool {
	if s.exists != seen.exists {
		return false
	}
	same := func(a, b string) bool { return a == b || a == unknown || b == unknown }
	return !s.exists || s.running == seen.running && same(s.mark, seen.mark) && maps.EqualFunc(s.snaps, seen.snaps, same)
}

// A thing is an instance or an alias of one worker's on one machine.
type thing struct {
	on    *node
	name  string
	alias bool
	may   []state  // it can be in: one, unless an operation was interrupted
	past  []string // what was done to it last
}

// pastKept is how much of that is told when something is wrong.
const pastKept = 8

// remember adds to the past.
func (t *thing) remember(format string, args ...any) {
	line := time.Now().UTC().Format("15:04:05.000 ") + fmt.Sprintf(format, args...)
	t.past = append(t.past[max(0, len(t.past)-pastKept):], line)
}

func (t *thing) String() string { return t.on.name + ":" + t.name }

// is gives the state of a thing that is known.
func (t *thing) is() state { return t.may[len(t.may)-1] }

// become takes what a thing can be from now on; the last is the likeliest.
func (t *thing) become(states ...state) {
	t.may = states
	t.remember("may be %v", states)
}

// knownFrom makes one state of those that fit what was seen; false: none does.
func (t *thing) knownFrom(seen state) bool {
	i := slices.IndexFunc(t.may, func(s state) bool { return s.fits(seen) })
	if i < 0 {
		return false
	}
	known := t.may[i]
	if known.mark == unknown {
		known.mark = seen.mark
	}
	t.become(known)
	return true
}

// A change is what an operation does to a thing.
type change struct {
	thing   *thing
	between []state // what an interrupted one can leave, besides what was and what is to be
	after   state
}

func (c change) done() { c.thing.become(c.after) }

func (c change) interrupted() {
	c.thing.become(slices.Concat(c.thing.may, c.between, []state{c.after})...)
}

// An action is one command of a user's.
type action struct {
	verb    string
	on      *node // whose user
	args    []string
	remote  bool // it takes both machines
	changes []change
	mayFail bool               // without anything being wrong
	then    func(machine.Said) // looks at what was not known before
}
