package server

import (
	"maps"
	"net/http"
	"slices"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/db"
)

func wireForward(listen string, f db.Forward) api.NetworkForward {
	return api.NetworkForward{NetworkForwardPut: forwardPut(f), ListenAddress: listen, Location: "none"}
}

// forwardPut is what a forward's ETag stands for.
func forwardPut(f db.Forward) api.NetworkForwardPut {
	put := api.NetworkForwardPut{Description: f.Description, Config: orEmpty(f.Config), Ports: []api.NetworkForwardPort{}}
	for _, p := range f.Ports {
		put.Ports = append(put.Ports, api.NetworkForwardPort{Description: p.Description, Protocol: p.Protocol,
			ListenPort: p.Listen, TargetPort: p.Target, TargetAddress: p.Address})
	}
	return put
}

func forwardOf(put api.NetworkForwardPut) db.Forward {
	f := db.Forward{Description: put.Description, Config: put.Config}
	for _, p := range put.Ports {
		f.Ports = append(f.Ports, db.ForwardPort{Description: p.Description, Protocol: p.Protocol, Listen: p.ListenPort,
			Target: p.TargetPort, Address: p.TargetAddress})
	}
	return f
}

func (s *Server) getForwards(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Forwards(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	forwards := []api.NetworkForward{}
	for _, listen := range slices.Sorted(maps.Keys(all)) {
		forwards = append(forwards, wireForward(listen, all[listen]))
	}
	path := "/1.0/networks/" + r.PathValue("name") + "/forwards/"
	return list(r, forwards, func(f api.NetworkForward) string { return path + f.ListenAddress })
}

func (s *Server) postForwards(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.NetworkForwardsPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	err := s.d.CreateForward(r.Context(), name, post.ListenAddress, forwardOf(post.NetworkForwardPut))
	return created("/1.0/networks/" + segment(name) + "/forwards/" + segment(post.ListenAddress)), err
}

func (s *Server) getForward(w http.ResponseWriter, r *http.Request) (any, error) {
	f, err := s.d.Forward(r.Context(), r.PathValue("name"), r.PathValue("address"))
	return tagged{wireForward(r.PathValue("address"), f), forwardPut(f)}, err
}

func (s *Server) putForward(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.NetworkForwardPut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.changeForward(r, func(api.NetworkForwardPut) api.NetworkForwardPut { return put })
}

func (s *Server) patchForward(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Description *string
		Config      map[string]string
		Ports       *[]api.NetworkForwardPort
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return nil, s.changeForward(r, func(f api.NetworkForwardPut) api.NetworkForwardPut {
		if change.Description != nil {
			f.Description = *change.Description
		}
		if change.Ports != nil {
			f.Ports = *change.Ports
		}
		f.Config = merged(f.Config, change.Config)
		return f
	})
}

func (s *Server) changeForward(r *http.Request, change func(api.NetworkForwardPut) api.NetworkForwardPut) error {
	return s.d.UpdateForward(r.Context(), r.PathValue("name"), r.PathValue("address"),
		func(f db.Forward) (db.Forward, error) {
			if err := checkETag(r, forwardPut(f)); err != nil {
				return f, err
			}
			return forwardOf(change(forwardPut(f))), nil
		})
}

func (s *Server) deleteForward(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteForward(r.Context(), r.PathValue("name"), r.PathValue("address"))
}
