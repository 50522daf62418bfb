package server

import (
	"maps"
	"net/http"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
)

func profile(p daemon.Profile, to caller) api.Profile {
	used := []string{}
	for _, i := range p.UsedBy {
		if to.mayUse(i.Project) {
			used = append(used, inURL("/1.0/instances/"+i.Name, i.Project))
		}
	}
	return api.Profile{Project: p.Project, Name: p.Name, Description: described(p.Description, p.Damage),
		Config:  orEmpty(p.Config),
		Devices: orEmpty(p.Devices), UsedBy: used}
}

func (s *Server) getProfiles(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Profiles(r.Context())
	if err != nil {
		return nil, err
	}
	profiles := []api.Profile{}
	for _, p := range all {
		profiles = append(profiles, profile(p, callerOf(r)))
	}
	return list(r, profiles, func(p api.Profile) string { return inURL("/1.0/profiles/"+segment(p.Name), p.Project) })
}

func (s *Server) postProfiles(w http.ResponseWriter, r *http.Request) (any, error) {
	var p api.ProfilesPost
	if err := readJSON(r, &p); err != nil {
		return nil, err
	}
	err := s.d.CreateProfile(r.Context(), db.Profile{Name: p.Name, Description: p.Description, Config: p.Config,
		Devices: p.Devices})
	return created("/1.0/profiles/" + segment(p.Name)), err
}

// profilePut is what a profile's ETag stands for.
func profilePut(p db.Profile) api.ProfilePut {
	return api.ProfilePut{Description: p.Description, Config: orEmpty(p.Config), Devices: orEmpty(p.Devices)}
}

func (s *Server) getProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := s.d.Profile(r.Context(), r.PathValue("name"))
	return tagged{profile(p, callerOf(r)), profilePut(p.Profile)}, err
}

func (s *Server) putProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.ProfilePut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return s.changeProfile(r, func(api.ProfilePut) api.ProfilePut { return put })
}

func (s *Server) patchProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Description *string
		Config      map[string]string
		Devices     map[string]map[string]string
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return s.changeProfile(r, func(p api.ProfilePut) api.ProfilePut {
		if change.Description != nil {
			p.Description = *change.Description
		}
		p.Config = merged(p.Config, change.Config)
		maps.Copy(p.Devices, change.Devices)
		return p
	})
}

func (s *Server) changeProfile(r *http.Request, change func(api.ProfilePut) api.ProfilePut) (any, error) {
	warnings, err := s.d.UpdateProfile(r.Context(), r.PathValue("name"), func(p db.Profile) (db.Profile, error) {
		if err := checkETag(r, profilePut(p)); err != nil {
			return db.Profile{}, err
		}
		put := change(profilePut(p))
		return db.Profile{Description: put.Description, Config: put.Config, Devices: put.Devices}, nil
	})
	return warned(warnings), err
}

// warned is the metadata of an answer that tells of more than success.
func warned(warnings []string) map[string]any {
	if len(warnings) == 0 {
		return map[string]any{}
	}
	return map[string]any{"warnings": warnings}
}

func (s *Server) postProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	return created("/1.0/profiles/" + segment(to.Name)), s.d.RenameProfile(r.Context(), r.PathValue("name"), to.Name)
}

func (s *Server) deleteProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteProfile(r.Context(), r.PathValue("name"))
}
