package server

import (
	"cmp"
	"net/http"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
)

func warning(w daemon.Warning) api.Warning {
	return api.Warning{
		WarningPut: warningPut(w), UUID: w.ID, Location: "none", Project: w.Project, Type: w.Type, Count: w.Count,
		FirstSeenAt: w.FirstSeen, LastSeenAt: w.LastSeen, LastMessage: described(w.Message, w.Damage), Severity: w.Severity,
		EntityURL: w.URL,
	}
}

// warningPut is what a warning's ETag stands for.
func warningPut(w daemon.Warning) api.WarningPut { return api.WarningPut{Status: w.Status} }

func (s *Server) getWarnings(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Warnings(r.Context(), r.URL.Query().Get("project"))
	if err != nil {
		return nil, err
	}
	warnings := []api.Warning{}
	for _, one := range all {
		warnings = append(warnings, warning(one))
	}
	return list(r, warnings, func(w api.Warning) string { return "/1.0/warnings/" + w.UUID })
}

func (s *Server) getWarning(w http.ResponseWriter, r *http.Request) (any, error) {
	one, err := s.d.Warning(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return tagged{warning(one), warningPut(one)}, nil
}

// putWarning changes the status of a warning. A patch without one leaves it as it is.
func (s *Server) putWarning(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.WarningPut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.d.SetWarningStatus(r.Context(), r.PathValue("id"), func(is daemon.Warning) (string, error) {
		if r.Method == http.MethodPatch {
			put.Status = cmp.Or(put.Status, is.Status)
		}
		return put.Status, checkETag(r, warningPut(is))
	})
}

func (s *Server) deleteWarning(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteWarning(r.Context(), r.PathValue("id"))
}
