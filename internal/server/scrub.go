package server

import (
	"net/http"

	"github.com/kiln-containers/kiln/api"
)

func (s *Server) getScrub(w http.ResponseWriter, r *http.Request) (any, error) {
	now, err := s.d.Scrub(r.Context())
	if err != nil {
		return nil, err
	}
	out := api.Scrub{Status: now.Status, StartedAt: now.StartedAt, NextAt: now.NextAt, BytesRead: now.Bytes,
		BytesTotal: now.AllBytes, Files: now.Files, Trees: now.Trees, Damage: []api.ScrubDamage{}, Unlisted: now.Unnamed,
		Operation: now.Operation}
	if !now.StartedAt.IsZero() {
		out.EndedAt = now.EndedAt
	}
	for _, d := range now.Found {
		out.Damage = append(out.Damage, api.ScrubDamage(d))
	}
	return out, nil
}

func (s *Server) postScrub(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.ScrubPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	o, _, err := s.d.StartScrub(r.Context(), post.Anew)
	return o, err
}

func (s *Server) deleteScrub(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.StopScrub(r.Context())
}
