package server

import (
	"maps"
	"net/http"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
)

func wireProject(p daemon.Project) api.Project {
	used := []string{}
	for _, name := range p.Instances {
		used = append(used, inURL("/1.0/instances/"+name, p.Name))
	}
	for _, fp := range p.Images {
		used = append(used, inURL("/1.0/images/"+fp, p.Name))
	}
	for _, name := range p.Profiles {
		used = append(used, inURL("/1.0/profiles/"+segment(name), p.Name))
	}
	for _, name := range p.Volumes {
		used = append(used, inURL("/1.0/storage-pools/default/volumes/custom/"+segment(name), p.Name))
	}
	return api.Project{Name: p.Name, Description: described(p.Description, p.Damage), Config: orEmpty(p.Config),
		UsedBy: used}
}

// projectPut is what a project's ETag stands for.
func projectPut(p db.Project) api.ProjectPut {
	return api.ProjectPut{Description: p.Description, Config: orEmpty(p.Config)}
}

func (s *Server) getProjects(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Projects(r.Context())
	if err != nil {
		return nil, err
	}
	projects := []api.Project{}
	for _, p := range all {
		if callerOf(r).mayUse(p.Name) {
			projects = append(projects, wireProject(p))
		}
	}
	return list(r, projects, func(p api.Project) string { return "/1.0/projects/" + segment(p.Name) })
}

// project finds the project that a request names. The error is NotFound, also for one that
// the caller may not know of.
func (s *Server) project(r *http.Request) (daemon.Project, error) {
	name := r.PathValue("name")
	if !callerOf(r).mayUse(name) {
		return daemon.Project{}, noProject(name)
	}
	return s.d.Project(r.Context(), name)
}

func (s *Server) getProject(w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := s.project(r)
	return tagged{wireProject(p), projectPut(p.Project)}, err
}

func (s *Server) getProjectState(w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := s.project(r)
	if err != nil {
		return nil, err
	}
	usage, err := s.d.ProjectUsage(r.Context(), p.Name)
	state := api.ProjectState{Resources: map[string]api.ProjectResource{}}
	for name, u := range usage {
		state.Resources[name] = api.ProjectResource{Limit: u.Limit, Usage: u.Used}
	}
	return state, err
}

func (s *Server) postProjects(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.ProjectsPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	err := s.d.CreateProject(r.Context(), db.Project{Name: post.Name, Description: post.Description, Config: post.Config})
	return created("/1.0/projects/" + segment(post.Name)), err
}

func (s *Server) putProject(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.ProjectPut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.changeProject(r, func(p *db.Project) { p.Description, p.Config = put.Description, put.Config })
}

func (s *Server) patchProject(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Description *string
		Config      map[string]string
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return nil, s.changeProject(r, func(p *db.Project) {
		set(&p.Description, change.Description)
		p.Config = maps.Clone(orEmpty(p.Config))
		maps.Copy(p.Config, change.Config)
	})
}

func (s *Server) changeProject(r *http.Request, change func(*db.Project)) error {
	return s.d.UpdateProject(r.Context(), r.PathValue("name"), func(p db.Project) (db.Project, error) {
		if err := checkETag(r, projectPut(p)); err != nil {
			return db.Project{}, err
		}
		change(&p)
		return p, nil
	})
}

// postProject renames a project: for clients an operation, since one that isn't empty would
// take its time elsewhere.
func (s *Server) postProject(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	if err := s.d.RenameProject(r.Context(), r.PathValue("name"), to.Name); err != nil {
		return nil, err
	}
	return s.d.DoneWith(r.Context(), "Renaming project", "projects", "/1.0/projects/"+segment(to.Name)), nil
}

func (s *Server) deleteProject(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteProject(r.Context(), r.PathValue("name"))
}
