package server

import (
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func theProject() api.Project {
	return api.Project{Name: defaultProject, Description: "Default kiln project", UsedBy: []string{},
		Config: map[string]string{
			"features.images": "true", "features.profiles": "true", "features.networks": "true",
			"features.storage.volumes": "true",
		}}
}

func (s *Server) getProjects(w http.ResponseWriter, r *http.Request) (any, error) {
	return list(r, []api.Project{theProject()}, func(p api.Project) string { return "/1.0/projects/" + p.Name })
}

func (s *Server) getProject(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.PathValue("name") != defaultProject {
		return nil, kiln.Errorf(kiln.NotFound, "Project not found")
	}
	return tagged{theProject(), theProject().Config}, nil
}
