package server

import (
	"context"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/migrate"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
)

// sendInstance copies an instance, or a snapshot "c1/snap0", to another server: to the target
// that is named, or to whoever knows the secrets of the operation.
func (s *Server) sendInstance(r *http.Request, name string, post api.InstancePost) (any, error) {
	spec := daemon.SendSpec{Live: post.Live, Only: post.InstanceOnly || post.ContainerOnly}
	if t := post.Target; t != nil {
		spec.Target = &remote.Migration{Operation: t.Operation, Certificate: t.Certificate, Secrets: t.Secrets}
	}
	m, err := s.d.Send(r.Context(), name, spec)
	if err != nil {
		return nil, err
	}
	return s.migrate(r, m)
}

// awaitInstance makes an instance that another server has, which this one asks for it, or
// which connects here.
func (s *Server) awaitInstance(r *http.Request, spec daemon.CreateSpec, src api.InstanceSource) (any, error) {
	var from *remote.Migration
	switch src.Mode {
	case "pull", "":
		from = &remote.Migration{Operation: src.Operation, Certificate: src.Certificate, Secrets: src.Secrets}
	case "push":
	default:
		return nil, kiln.Errorf(kiln.Invalid, "%q is no mode of a migration; there are pull and push", src.Mode)
	}
	m, err := s.d.AwaitInstance(r.Context(), spec, from)
	if err != nil {
		return nil, err
	}
	return s.migrate(r, m)
}

// migrate starts the operation of a migration.
func (s *Server) migrate(r *http.Request, m *daemon.Migration) (any, error) {
	o := op.Options{MayCancel: true, Resources: m.Resources}
	if !m.Waits() {
		return s.d.Ops.Start(m.Context(), m.Title, o, func(ctx context.Context, o *op.Operation) error {
			return m.Run(ctx, o, nil)
		}), nil
	}
	err := s.mayWait(r)
	var x *session
	if err == nil {
		x, err = newSession("control", "fs")
	}
	if err != nil {
		m.Drop()
		return nil, err
	}
	x.owner = callerOf(r)
	o.Class = op.Websocket
	o.Metadata = map[string]any{}
	for name, secret := range x.fds {
		o.Metadata[name] = secret
	}
	return s.startSession(m.Context(), m.Title, o, x, func(ctx context.Context, o *op.Operation) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(x.ctx, func() { cancel(kiln.Errorf(kiln.Denied, "not authorized any more")) })()
		return m.Run(ctx, o, func(ctx context.Context) (*migrate.Peer, error) { return x.peer(ctx) })
	}), nil
}

// peerTime is how long another server has to connect, which a client tells to, perhaps by one
// address after the other.
const peerTime = 5 * time.Minute

// peer waits for the websockets of another server.
func (x *session) peer(ctx context.Context) (*migrate.Peer, error) {
	late := time.NewTimer(peerTime)
	defer late.Stop()
	conns := map[string]conn{}
	for _, name := range []string{"control", "fs"} {
		select {
		case conns[name] = <-x.conns[name]:
		case <-late.C:
			return nil, kiln.Errorf(kiln.Timeout, "the other server didn't connect within %v; can it reach this one? it "+
				"listens where core.https_address says", peerTime)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	op.Of(ctx).Joined()
	return &migrate.Peer{Control: conns["control"].Conn, Files: conns["fs"].Conn, Silence: migrate.Silence}, nil
}
