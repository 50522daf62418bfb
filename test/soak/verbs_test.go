package soak

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kiln-containers/kiln/test/machine"
)

const mostSnapshots = 3 // of an instance

// A plan gives a command on a machine; nil: there is nothing there to do it to.
type plan func(*worker, *node) *action

// verbs are all that workers do; what is here twice is done more often.
func verbs() []plan {
	return []plan{
		(*worker).importImage, (*worker).copyImage, (*worker).refresh, (*worker).prune, (*worker).publish, (*worker).publish,
		(*worker).createAlias, (*worker).deleteAlias, (*worker).rollBack, (*worker).deleteImage,
		(*worker).launch, (*worker).launch, (*worker).launchRemote, (*worker).start, (*worker).stop, (*worker).restart,
		(*worker).write, (*worker).write, (*worker).snapshot, (*worker).snapshot, (*worker).deleteSnapshot,
		(*worker).restore, (*worker).restore, (*worker).copy, (*worker).copyAcross, (*worker).rebuild, (*worker).remove,
	}
}

func exists(s state) bool  { return s.exists }
func absent(s state) bool  { return !s.exists }
func running(s state) bool { return s.running }
func stopped(s state) bool { return s.exists && !s.running }

// image makes a state of an alias.
func image(mark string) state { return state{exists: true, mark: mark} }

func (w *worker) importImage(n *node) *action {
	mark := w.newMark()
	t := w.imported[n]
	return &action{verb: "import", on: n,
		args:    []string{"image", "import", w.file(mark), "--alias", t.name, "--public", "mark=" + mark},
		changes: []change{{thing: t, after: image(mark)}}}
}

func (w *worker) copyImage(n *node) *action {
	from, to := w.imported[n], w.copied[n.other]
	mode := []string{"auto", "pull", "push", "relay"}[w.random.IntN(4)]
	a := &action{verb: "image copy", on: n, remote: true,
		args:    []string{"image", "copy", from.name, n.other.name + ":", "--alias", to.name, "--mode", mode},
		changes: []change{{thing: to, after: image(from.is().mark)}}}
	if mode == "pull" {
		a.args = append(a.args, "--auto-update") // which the others can't have
	}
	return a
}

func (w *worker) refresh(n *node) *action {
	t, from := w.copied[n], w.imported[n.other]
	if !t.is().exists || !from.is().exists {
		return nil
	}
	a := &action{verb: "refresh", on: n, remote: true, mayFail: true, args: []string{"image", "refresh", t.name},
		changes: []change{{thing: t, after: image(unknown)}}}
	a.then = func(machine.Said) { w.settle(t) } // one that was pushed here is never updated
	return a
}

func (w *worker) prune(n *node) *action {
	return &action{verb: "prune", on: n, args: []string{"image", "prune"}}
}

func (w *worker) publish(n *node) *action {
	i, t := w.instance(n, exists), w.published[n]
	if i == nil {
		return nil
	}
	word, mark := i.name, i.is().mark
	if snaps := slices.Sorted(maps.Keys(i.is().snaps)); len(snaps) > 0 && w.random.IntN(2) == 0 {
		word, mark = word+"/"+snaps[0], i.is().snaps[snaps[0]]
	}
	return &action{verb: "publish", on: n, args: []string{"publish", word, "--alias", t.name, "mark=" + mark},
		changes: []change{{thing: t, after: image(mark)}}}
}

func (w *worker) createAlias(n *node) *action {
	t, of := w.pointer[n], w.imported[n]
	return &action{verb: "alias create", on: n,
		args:    []string{"image", "alias", "create", t.name, n.fingerprint(w.t, of.name), "--reuse"},
		changes: []change{{thing: t, after: image(of.is().mark)}}}
}

func (w *worker) deleteAlias(n *node) *action {
	t := w.pointer[n]
	if !t.is().exists {
		return nil
	}
	return &action{verb: "alias delete", on: n, args: []string{"image", "alias", "delete", t.name},
		changes: []change{{thing: t}}}
}

func (w *worker) rollBack(n *node) *action {
	t := w.published[n]
	if !t.is().exists {
		return nil
	}
	a := &action{verb: "rollback", on: n, args: []string{"image", "rollback", t.name}, mayFail: true, // no version is left
		changes: []change{{thing: t, after: image(unknown)}}}
	a.then = func(machine.Said) { w.settle(t) }
	return a
}

// settle looks at an alias whose image is not known before. If the daemon is gone,
// that is found out later.
func (w *worker) settle(t *thing) {
	if seen, err := t.on.alias(w.t.Context(), t.name); err == nil {
		t.become(seen)
	}
}

func (w *worker) deleteImage(n *node) *action {
	list := []*thing{w.imported[n], w.published[n], w.copied[n]}
	t := list[w.random.IntN(len(list))]
	if !t.is().exists {
		return nil
	}
	a := &action{verb: "image delete", on: n, args: []string{"image", "delete", t.name}, changes: []change{{thing: t}}}
	if p := w.pointer[n]; t == w.imported[n] && p.is().mark == t.is().mark {
		a.changes = append(a.changes, change{thing: p})
	}
	return a
}

func (w *worker) launch(n *node) *action {
	t, of := w.instance(n, absent), w.image(n)
	if t == nil || of == nil {
		return nil
	}
	after := image(of.is().mark)
	if w.random.IntN(3) == 0 {
		return &action{verb: "init", on: n, args: []string{"init", of.name, t.name},
			changes: []change{{thing: t, after: after}}}
	}
	return &action{verb: "launch", on: n, args: []string{"launch", of.name, t.name},
		changes: []change{{thing: t, between: []state{after}, after: after.with(func(s *state) { s.running = true })}}}
}

// launchRemote makes an instance of an image of the other machine; of the one that was
// fetched last, with a warning, if that is away.
func (w *worker) launchRemote(n *node) *action {
	t, of := w.instance(n, absent), w.imported[n.other]
	if t == nil || !of.is().exists {
		return nil
	}
	after := image(of.is().mark)
	a := &action{verb: "launch remote", on: n, remote: true, args: []string{"launch", n.other.name + ":" + of.name, t.name},
		changes: []change{{thing: t, between: []state{after, image(unknown)},
			after: after.with(func(s *state) { s.running = true })}}}
	copied := w.copied[n] // takes over from the version before if it is updated, as a copy by pull is
	if copied.is().exists {
		a.changes = append(a.changes, change{thing: copied, after: image(unknown)})
	}
	a.then = func(said machine.Said) {
		if said.Err != "" {
			t.become(t.is().with(func(s *state) { s.mark = unknown }))
		}
		if copied.is().exists {
			w.settle(copied)
		}
	}
	return a
}

func (w *worker) start(n *node) *action {
	t := w.instance(n, stopped)
	if t == nil {
		return nil
	}
	return &action{verb: "start", on: n, args: []string{"start", t.name},
		changes: []change{{thing: t, after: t.is().with(func(s *state) { s.running = true })}}}
}

func (w *worker) stop(n *node) *action {
	t := w.instance(n, running)
	if t == nil {
		return nil
	}
	return &action{verb: "stop -f", on: n, args: []string{"stop", "-f", t.name},
		changes: []change{{thing: t, after: t.is().with(func(s *state) { s.running = false })}}}
}

// restart has an instance run afterwards, also if a daemon dies in between.
func (w *worker) restart(n *node) *action {
	t := w.instance(n, running)
	if t == nil {
		return nil
	}
	return &action{verb: "restart -f", on: n, args: []string{"restart", "-f", t.name},
		changes: []change{{thing: t, after: t.is()}}}
}

// write changes a file of an instance in one step.
func (w *worker) write(n *node) *action {
	t := w.instance(n, running)
	if t == nil {
		return nil
	}
	mark := w.newMark()
	return &action{verb: "exec", on: n,
		args:    []string{"exec", t.name, "--", "sh", "-c", "echo " + mark + " >/mark.new && mv /mark.new /mark"},
		changes: []change{{thing: t, after: t.is().with(func(s *state) { s.mark = mark })}}}
}

func (w *worker) snapshot(n *node) *action {
	t := w.instance(n, func(s state) bool { return s.exists && len(s.snaps) < mostSnapshots })
	if t == nil {
		return nil
	}
	name := w.newMark()
	return &action{verb: "snapshot", on: n, args: []string{"snapshot", t.name, name},
		changes: []change{{thing: t, after: t.is().with(func(s *state) { s.snaps[name] = s.mark })}}}
}

// snapshotted gives an instance and one of its snapshots.
func (w *worker) snapshotted(n *node) (*thing, string) {
	t := w.instance(n, func(s state) bool { return len(s.snaps) > 0 })
	if t == nil {
		return nil, ""
	}
	names := slices.Sorted(maps.Keys(t.is().snaps))
	return t, names[w.random.IntN(len(names))]
}

func (w *worker) deleteSnapshot(n *node) *action {
	t, name := w.snapshotted(n)
	if t == nil {
		return nil
	}
	return &action{verb: "snapshot delete", on: n, args: []string{"delete", t.name + "/" + name},
		changes: []change{{thing: t, after: t.is().with(func(s *state) { delete(s.snaps, name) })}}}
}

func (w *worker) restore(n *node) *action {
	t, name := w.snapshotted(n)
	if t == nil {
		return nil
	}
	return &action{verb: "restore", on: n, args: []string{"restore", t.name, name},
		changes: []change{{thing: t, after: t.is().with(func(s *state) { s.mark = s.snaps[name] })}}}
}

// copyOf is the state of a copy.
func copyOf(s state) state { return s.with(func(s *state) { s.running = false }) }

func (w *worker) copy(n *node) *action {
	from, to := w.instance(n, exists), w.instance(n, absent)
	if from == nil || to == nil {
		return nil
	}
	if from, name := w.snapshotted(n); from != nil && w.random.IntN(2) == 0 {
		return &action{verb: "copy snapshot", on: n, args: []string{"copy", from.name + "/" + name, to.name},
			changes: []change{{thing: to, after: image(from.is().snaps[name])}}}
	}
	return &action{verb: "copy", on: n, args: []string{"copy", from.name, to.name},
		changes: []change{{thing: to, after: copyOf(from.is())}}}
}

func (w *worker) copyAcross(n *node) *action {
	from, to := w.instance(n, exists), w.instance(n.other, absent)
	if from == nil || to == nil {
		return nil
	}
	mode := []string{"auto", "pull", "relay"}[w.random.IntN(3)]
	return &action{verb: "copy remote", on: n, remote: true,
		args:    []string{"copy", from.name, fmt.Sprint(n.other.name, ":", to.name), "--mode", mode},
		changes: []change{{thing: to, after: copyOf(from.is())}}}
}

// rebuild stops an instance, and starts it again, by commands of its own.
func (w *worker) rebuild(n *node) *action {
	t, of := w.instance(n, exists), w.image(n)
	if t == nil || of == nil {
		return nil
	}
	after := t.is().with(func(s *state) { s.mark = of.is().mark })
	return &action{verb: "rebuild", on: n, args: []string{"rebuild", "-f", t.name, of.name},
		changes: []change{{thing: t, between: []state{copyOf(t.is()), copyOf(after)}, after: after}}}
}

func (w *worker) remove(n *node) *action {
	t := w.instance(n, exists)
	if t == nil {
		return nil
	}
	return &action{verb: "delete", on: n, args: []string{"delete", "-f", t.name},
		changes: []change{{thing: t, between: []state{copyOf(t.is())}}}}
}
