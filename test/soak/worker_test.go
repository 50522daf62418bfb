package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// A worker has instances and aliases of his own on both machines, and knows how each
// must be.
type worker struct {
	*soak
	name      string
	random    *rand.Rand
	marks     int
	home      string
	instances map[*node][]*thing
	imported  map[*node]*thing // alias of an image that was imported
	pointer   map[*node]*thing // of the same, for a time
	published map[*node]*thing // of one that was made of an instance
	copied    map[*node]*thing // of one that came from the other machine
}

func newWorker(s *soak, number int, seed uint64) *worker {
	w := &worker{soak: s, name: fmt.Sprint("w", number), random: rand.New(rand.NewPCG(seed, uint64(number)+1)),
		home: s.t.TempDir(), instances: map[*node][]*thing{}, imported: map[*node]*thing{}, pointer: map[*node]*thing{},
		published: map[*node]*thing{}, copied: map[*node]*thing{}}
	thingOn := func(n *node, name string, alias bool) *thing {
		t := &thing{on: n, name: w.name + "-" + name, alias: alias, may: []state{{}}}
		n.things = append(n.things, t)
		return t
	}
	for _, n := range s.nodes {
		for i := range 2 {
			w.instances[n] = append(w.instances[n], thingOn(n, fmt.Sprint("i", i), false))
		}
		w.imported[n], w.pointer[n] = thingOn(n, "img", true), thingOn(n, "ptr", true)
		w.published[n], w.copied[n] = thingOn(n, "pub", true), thingOn(n, "copy", true)
	}
	return w
}

// work does one thing after another until it is told to stop or is interrupted.
func (w *worker) work(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
			if a := w.next(); a != nil && !w.do(a) {
				return
			}
		}
	}
}

// next gives something that can be done now; nil: try again.
func (w *worker) next() *action {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	if !w.imported[n].is().exists {
		return w.importImage(n)
	}
	plans := verbs()
	return plans[w.random.IntN(len(plans))](w, n)
}

// do runs a command, and says whether that is how it is.
func (w *worker) do(a *action) bool {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*bound)
	defer cancel()
	said, err := a.on.Run(ctx, a.args...)
	if err != nil {
		w.violation("%v", err)
		return false
	}
	for _, c := range a.changes {
		c.thing.remember("kiln %s on %s: exit %d: %s%s", said.Line, a.on.name, said.Code, said.Out, said.Err)
	}
	switch end := time.Now(); {
	case ctx.Err() != nil:
		w.violation("kiln %s on %s doesn't end: %s", said.Line, a.on.name, said.Err)
	case said.Code == 0:
		for _, c := range a.changes {
			c.done()
		}
		w.count(w.done, a.verb)
		if a.then != nil {
			a.then(said)
		}
		return true
	case w.excused(a, end):
		w.count(w.broken, a.verb)
	case a.mayFail:
		return true
	default:
		w.violation("kiln %s on %s: exit %d: %s", said.Line, a.on.name, said.Code, said.Err)
	}
	for _, c := range a.changes {
		c.interrupted()
	}
	return false
}

func (w *worker) count(of map[string]int, verb string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of[verb]++
}

// excused reports whether a command failed because a daemon was killed.
func (w *worker) excused(a *action, end time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, at := range w.killed {
		if (n == a.on || a.remote) && end.After(at) {
			return true
		}
	}
	return false
}

// newMark is one that nothing had yet.
func (w *worker) newMark() string {
	w.marks++
	return fmt.Sprint(w.name, "-", w.marks)
}

// instance gives one of the worker's with what is asked for; nil: none has it.
func (w *worker) instance(n *node, fits func(state) bool) *thing {
	var list []*thing
	for _, t := range w.instances[n] {
		if fits(t.is()) {
			list = append(list, t)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[w.random.IntN(len(list))]
}

// image gives an alias with an image; nil: there is none.
func (w *worker) image(n *node) *thing {
	list := []*thing{w.imported[n], w.pointer[n], w.published[n], w.copied[n]}
	if t := list[w.random.IntN(len(list))]; t.is().exists {
		return t
	}
	return nil
}

// file writes the file of a bootable image with a mark.
func (w *worker) file(mark string) string {
	files := append(formattest.Meta(), formattest.Rootfs(w.t, "rootfs/")...)
	files = append(files, formattest.File{Name: "rootfs/mark", Body: mark + "\n"})
	path := filepath.Join(w.home, "image.tar")
	if err := os.WriteFile(path, formattest.Tar(w.t, files...), 0o600); err != nil {
		w.violation("%v", err)
	}
	return path
}
