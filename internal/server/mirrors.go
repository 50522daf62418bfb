package server

import (
	"net/http"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/signing"
)

func (s *Server) getMirrors(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Mirrors(r.Context())
	mirrors := []api.Mirror{}
	for _, m := range all {
		mirrors = append(mirrors, api.Mirror{LastRunAt: m.LastRunAt, LastError: described(m.LastError, m.Damage),
			MirrorsPost: api.MirrorsPost{
				Name: m.Name, Server: m.Remote.Server, Protocol: m.Remote.Protocol, Certificate: m.Remote.Certificate,
				Filters: orNone(m.Filters), Keep: m.Keep,
				PullThrough: m.PullThrough, Public: m.Public, RemoteAccess: api.RemoteAccess{CA: m.Remote.CA,
					Mirrors: m.Remote.Mirrors, Proxy: m.Remote.Proxy, ImageKey: m.Remote.ImageKey},
			}})
	}
	return mirrors, err
}

func (s *Server) postMirrors(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.MirrorsPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	audit.About(r.Context(), "", "/1.0/kiln/mirrors/"+segment(post.Name))
	if key, err := signing.ParseKey(post.ImageKey); err == nil {
		audit.Note(r.Context(), "key", key.ID())
	}
	return s.d.AddMirror(r.Context(), daemon.Mirror{
		Name: post.Name, Remote: remoteOf(post.Server, post.Protocol, post.Certificate, post.RemoteAccess),
		Filters: post.Filters,
		Keep:    post.Keep, PullThrough: post.PullThrough, Public: post.Public,
	})
}

func (s *Server) runMirror(w http.ResponseWriter, r *http.Request) (any, error) {
	stale, err := acceptsStale(r)
	if err != nil {
		return nil, err
	}
	return s.d.RunMirror(r.Context(), r.PathValue("name"), stale)
}

func (s *Server) deleteMirror(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.RemoveMirror(r.Context(), r.PathValue("name"))
}
