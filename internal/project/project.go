// Package project carries in a context in which project its work is done. Rows are found
// and made there: what asks for rows without having said a project fails, and reaches none.
//
// It doesn't know which projects there are, nor what they allow.
package project

import (
	"context"
	"slices"

	"github.com/kiln-containers/kiln"
)

// Default is the project that always exists, and that everything is in of which nobody
// says otherwise.
const Default = "default"

// A Project is where work finds its things. A kind of thing that the project doesn't keep
// itself (features.images=false) is the default project's.
type Project struct {
	Name     string // whose instances are meant
	Images   string // the project whose images and aliases are meant
	Profiles string // the project whose profiles are meant
	Volumes  string // the project whose storage volumes are meant
}

// Alone is a project that keeps everything itself, as the default one does.
func Alone(name string) Project {
	return Project{Name: name, Images: name, Profiles: name, Volumes: name}
}

// New is a project as its configuration says: "features.images", "features.profiles" and
// "features.storage.volumes" are true for what it keeps itself. The default one keeps
// everything.
func New(name string, config map[string]string) Project {
	p := Alone(name)
	if name == Default {
		return p
	}
	if !kiln.IsTrue(config["features.images"]) {
		p.Images = Default
	}
	if !kiln.IsTrue(config["features.profiles"]) {
		p.Profiles = Default
	}
	if !kiln.IsTrue(config["features.storage.volumes"]) {
		p.Volumes = Default
	}
	return p
}

// A Kind says which things of a project are meant.
type Kind int

// The kinds of things that projects have.
const (
	Instances Kind = iota
	Images
	Profiles
	Volumes
)

func (p Project) of(k Kind) string {
	switch k {
	case Images:
		return p.Images
	case Profiles:
		return p.Profiles
	case Volumes:
		return p.Volumes
	}
	return p.Name
}

// scope is what a context says: one project, or several.
type scope struct {
	one   Project
	all   bool
	among []string // with all: only these; nil: every one
}

type key struct{}

// In says that work is done in a project.
func In(ctx context.Context, p Project) context.Context {
	return context.WithValue(ctx, key{}, scope{one: p})
}

// InDefault says that work is done in the default project.
func InDefault(ctx context.Context) context.Context { return In(ctx, Alone(Default)) }

// InAll says that lists are of every project. What names one thing fails.
func InAll(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, scope{all: true})
}

// Among says that lists are of these projects, and of no other. What names one thing fails.
func Among(ctx context.Context, names []string) context.Context {
	return context.WithValue(ctx, key{}, scope{all: true, among: append([]string{}, names...)})
}

// Like says that ctx's work is done where that of another context is.
func Like(ctx, other context.Context) context.Context {
	return context.WithValue(ctx, key{}, other.Value(key{}))
}

// fallback is the project of work that doesn't say one; without a name there is none.
var fallback Project

// Assume has work that doesn't say a project be done in one: for the tests of packages that
// don't care. It is called before anything else is.
func Assume(p Project) { fallback = p }

func scopeOf(ctx context.Context) (scope, bool) {
	s, ok := ctx.Value(key{}).(scope)
	if !ok && fallback.Name != "" {
		return scope{one: fallback}, true
	}
	return s, ok
}

// Of gives the project that ctx's work is done in. The error is Internal when it is done in
// none, or in several.
func Of(ctx context.Context) (Project, error) {
	s, ok := scopeOf(ctx)
	switch {
	case !ok:
		return Project{}, kiln.Errorf(kiln.Internal, "it isn't said in which project this is done")
	case s.all:
		return Project{}, kiln.Errorf(kiln.Internal, "this is done in one project, and several are meant")
	}
	return s.one, nil
}

// Name gives the name of the project that ctx's work is done in; "": none, or several.
func Name(ctx context.Context) string {
	p, _ := Of(ctx)
	return p.Name
}

// The Names of projects whose things of a kind are meant. all: those of every project. The
// error is Internal when ctx's work is done in none.
func Names(ctx context.Context, k Kind) (names []string, all bool, err error) {
	s, ok := scopeOf(ctx)
	if !ok || !s.all {
		p, err := Of(ctx)
		return []string{p.of(k)}, false, err
	}
	return slices.Clone(s.among), s.among == nil, nil
}

// One gives the name of the project whose things of a kind are meant. Errors are those of Of.
func One(ctx context.Context, k Kind) (string, error) {
	p, err := Of(ctx)
	return p.of(k), err
}
