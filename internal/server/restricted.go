package server

import (
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/op"
)

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
