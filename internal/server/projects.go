package server

import (
	"errors"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/store"
)

// theProject is the one there is, with all that is in it.
func (s *Server) theProject(r *http.Request) (api.Project, error) {
	instances, err := s.d.Instances(r.Context())
	images, ierr := s.d.Images.List(r.Context(), store.Query{})
	profiles, perr := s.d.Profiles(r.Context())
	used := []string{}
	for _, i := range instances {
		used = append(used, "/1.0/instances/"+i.Name)
	}
	for _, i := range images {
		used = append(used, "/1.0/images/"+i.Fingerprint.String())
	}
	for _, p := range profiles {
		used = append(used, "/1.0/profiles/"+segment(p.Name))
	}
	return api.Project{Name: defaultProject, Description: "Default kiln project", UsedBy: used,
		Config: map[string]string{
			"features.images": "true", "features.profiles": "true", "features.networks": "true",
			"features.storage.volumes": "true",
		}}, errors.Join(err, ierr, perr)
}

func (s *Server) getProjects(w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := s.theProject(r)
	if err != nil {
		return nil, err
	}
	return list(r, []api.Project{p}, func(p api.Project) string { return "/1.0/projects/" + p.Name })
}

func (s *Server) getProject(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.PathValue("name") != defaultProject {
		return nil, kiln.Errorf(kiln.NotFound, "Project not found")
	}
	p, err := s.theProject(r)
	return tagged{p, p.Config}, err
}
