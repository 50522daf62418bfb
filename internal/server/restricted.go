package server

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// owner names whom the operations of a caller are of: those of restricted clients are their
// own to see, and each client has only so many. It is "" for the unix socket.
func (c caller) owner() string {
	if !c.trusted {
		return "untrusted" // they are one
	}
	return c.fingerprint
}

// maySee reports whether a caller may see an operation, which may have a secret.
func (c caller) maySee(s op.Snapshot) bool {
	return !c.restricted || s.Owner == c.fingerprint && c.mayUse(s.Project)
}

// mayUse reports whether a project is one of those that a caller may know of.
func (c caller) mayUse(name string) bool { return !c.restricted || slices.Contains(c.projects, name) }

// noProject is the error for a project that isn't there, and for one that a caller may not
// know of.
func noProject(name string) error {
	return kiln.Errorf(kiln.NotFound, "Project not found: %q; see: kiln project list", name)
}

// inProject has a request be about the project that it names, the default one if it names
// none, or about all that the caller may see.
func (s *Server) inProject(r *http.Request, to route, method string) (*http.Request, error) {
	c, ctx := callerOf(r), r.Context()
	q := r.URL.Query()
	name, all := q.Get("project"), kiln.IsTrue(q.Get("all-projects"))
	switch {
	case to.server || !c.trusted:
		// Who isn't trusted has the public images of the default project; a secret says by
		// itself which project it is for.
		if !c.trusted && name != "" && name != project.Default && q.Get("secret") == "" && header(r, "secret") == "" &&
			strings.HasPrefix(to.path, "/1.0/images") {
			return nil, noProject(name)
		}
		return r.WithContext(project.InDefault(ctx)), nil
	case all && (!to.several || method != http.MethodGet):
		return nil, kiln.Errorf(kiln.Invalid, "this can't be about all projects at once; say which one: --project")
	case all && name != "":
		return nil, kiln.Errorf(kiln.Invalid, "say either a project or all-projects, not both")
	case all && c.restricted:
		return r.WithContext(project.Among(ctx, c.projects)), nil
	case all:
		return r.WithContext(project.InAll(ctx)), nil
	case cmp.Or(name, project.Default) == project.Default && !c.mayUse(project.Default) && method == http.MethodGet &&
		to.open(method) && isOfImages(to.path): // it may have what everybody may
		return r.WithContext(project.InDefault(withCaller(ctx, caller{protocol: c.protocol, address: c.address}))), nil
	case name == "" && !c.mayUse(project.Default) && to.path == "/1.0":
		name = c.projects[0] // whoever adds a remote doesn't know yet which there are
	case name == "" && !c.mayUse(project.Default):
		return nil, kiln.Errorf(kiln.Denied, "not authorized: this client is restricted to projects, and the project %s is "+
			"none of them; say which: --project %s", project.Default, strings.Join(c.projects, ", or "))
	}
	name = cmp.Or(name, project.Default)
	if !c.mayUse(name) {
		return nil, noProject(name)
	}
	ctx, err := s.d.In(ctx, name)
	if err != nil {
		return nil, err
	}
	if in, err := project.One(ctx, project.Images); err != nil || !c.mayUse(in) && method != http.MethodGet &&
		isOfImages(to.path) {
		return nil, cmp.Or(err, kiln.Errorf(kiln.Denied, "not authorized: the images of project %q are those of the default "+
			"project, which this client can use and not change", name))
	}
	return r.WithContext(ctx), nil
}

// isOfImages reports whether a route changes images or aliases.
func isOfImages(path string) bool {
	for _, prefix := range []string{"/1.0/images", "/1.0/kiln/images", "/1.0/kiln/alias-history"} {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// about reports whether something of a project is what a request is about.
func about(ctx context.Context, name string) bool {
	names, all, err := project.Names(ctx, project.Instances)
	return err == nil && (all || slices.Contains(names, name))
}

// inURL names the project in the URL of one of its things, if it isn't the default one.
func inURL(path, name string) string {
	if name == "" || name == project.Default {
		return path
	}
	return path + "?project=" + url.QueryEscape(name)
}

// operationOf finds an operation that the caller may see. The error is NotFound.
func (s *Server) operationOf(r *http.Request) (*op.Operation, error) {
	o, err := s.d.Ops.Get(r.PathValue("id"))
	if err == nil && !callerOf(r).maySee(o.Snapshot()) {
		err = kiln.Errorf(kiln.NotFound, "Operation not found")
	}
	return o, err
}
