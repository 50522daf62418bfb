package db

import (
	"context"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// Names change hands: while something takes its time, the instance that it is about may be
// renamed or deleted, and another may get the name. So who has read a row, and later reads or
// changes it by its name, says in the context which one is meant, and each look at the row
// and each transaction compares: the error is Conflict then, and nothing is changed.

// meant is the key of what tells whether a row is the one that is meant by a name, of a
// snapshot if it has one.
type meant struct{ project, instance, snapshot string }

// Meaning has work mean one instance by a name, in the project that ctx is about: same tells
// whether a row is of that one.
func Meaning(ctx context.Context, name string, same func(Instance) bool) context.Context {
	return context.WithValue(ctx, meant{project.Name(ctx), name, ""}, same)
}

// MeaningSnapshot has work mean one snapshot by its name, and by those of its instance and
// project.
func MeaningSnapshot(ctx context.Context, s Snapshot) context.Context {
	same := func(now Snapshot) bool { return now.Files == s.Files }
	return context.WithValue(ctx, meant{s.Project, s.Instance, s.Name}, same)
}

// checkMeant says whether a row is the one that ctx means by its name. The error is Conflict.
func (i *Instance) checkMeant(ctx context.Context) error {
	same, ok := ctx.Value(meant{i.Project, i.Name, ""}).(func(Instance) bool)
	if !ok || same(*i) {
		return nil
	}
	return otherNow("instance", i.Name)
}

func (s *Snapshot) checkMeant(ctx context.Context) error {
	same, ok := ctx.Value(meant{s.Project, s.Instance, s.Name}).(func(Snapshot) bool)
	if !ok || same(*s) {
		return nil
	}
	return otherNow("snapshot", s.Instance+"/"+s.Name)
}

func otherNow(what, name string) error {
	return kiln.Errorf(kiln.Conflict, "%s %q is another one now: that of before was renamed, moved or deleted "+
		"meanwhile; look which is which (kiln list), then try again", what, name)
}
