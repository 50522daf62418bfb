package server

import (
	"maps"
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// mayConfigure refuses what a restricted client wants of an instance when that lets it
// reach the host. What the instance has already, which somebody else gave it, may stay.
func mayConfigure(r *http.Request, want, has instance.Config) error {
	if !callerOf(r).restricted {
		return nil
	}
	options, devices := maps.Clone(want.Options), maps.Clone(want.Devices)
	maps.DeleteFunc(options, func(k, v string) bool { return has.Options[k] == v })
	maps.DeleteFunc(devices, func(name string, d map[string]string) bool { return maps.Equal(d, has.Devices[name]) })
	list := instance.HostAccess(options, devices)
	if kiln.IsTrue(options["security.nesting"]) {
		list = append(list, "security.nesting") // which widens what of the kernel is in reach
	}
	if len(list) > 0 {
		return kiln.Errorf(kiln.Denied, "not authorized: a restricted client can't give an instance access to the host: %s",
			strings.Join(list, ", "))
	}
	return nil
}

// owner names a caller where that matters: operations of restricted clients are their
// own, and the others' aren't theirs to see. It is "" for whoever may see all.
func (c caller) owner() string {
	if !c.restricted {
		return ""
	}
	return c.fingerprint
}

// maySee reports whether a caller may see an operation, which may have a secret.
func (c caller) maySee(s op.Snapshot) bool { return !c.restricted || s.Owner == c.fingerprint }

// operationOf finds an operation that the caller may see. The error is NotFound.
func (s *Server) operationOf(r *http.Request) (*op.Operation, error) {
	o, err := s.d.Ops.Get(r.PathValue("id"))
	if err == nil && !callerOf(r).maySee(o.Snapshot()) {
		err = kiln.Errorf(kiln.NotFound, "Operation not found")
	}
	return o, err
}
