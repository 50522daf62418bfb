package server

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
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

// forwards gives the forwards of a network that the caller may know of.
func (s *Server) forwards(r *http.Request) (map[string]db.Forward, error) {
	name := r.PathValue("name")
	all, err := s.d.Forwards(r.Context(), name)
	if err != nil || !callerOf(r).restricted {
		return all, err
	}
	leases, err := s.d.Leases(r.Context(), name)
	return callerOf(r).own(all, leases), err
}

// own gives the forwards that lead to instances of a caller's projects, and nowhere else.
func (c caller) own(all map[string]db.Forward, leases []db.Lease) map[string]db.Forward {
	mine := map[netip.Addr]bool{}
	for _, l := range leases {
		if c.mayUse(l.Project) {
			mine[l.IPv4], mine[l.IPv6] = true, true
		}
	}
	list := map[string]db.Forward{}
	for listen, f := range all {
		targets := daemon.ForwardTargets(f)
		if len(targets) > 0 && !slices.ContainsFunc(targets, func(t string) bool {
			a, err := netip.ParseAddr(t)
			return err != nil || !mine[a]
		}) {
			list[listen] = f
		}
	}
	return list
}

func (s *Server) getForwards(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.forwards(r)
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
	if callerOf(r).restricted {
		all, err := s.forwards(r)
		if err != nil {
			return nil, err
		}
		if _, ok := all[daemon.ForwardName(r.PathValue("address"))]; !ok {
			return nil, kiln.Errorf(kiln.NotFound, "network %q has no forward of %q; see: kiln network forward list %[1]s",
				r.PathValue("name"), r.PathValue("address"))
		}
	}
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
