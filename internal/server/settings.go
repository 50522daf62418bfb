package server

import (
	"net/http"
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
)

func (s *Server) settings(r *http.Request) (map[string]any, error) {
	set, err := s.d.Settings(r.Context())
	return serverConfig(set), err
}

// serverConfig is what is set as the wire has it.
func serverConfig(set map[string]string) map[string]any {
	config := map[string]any{}
	for k, v := range set {
		config[k] = v
		if v == "true" && k == "core.trust_password" {
			config[k] = true
		}
	}
	return config
}

func (s *Server) putServer(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.changeServer(r, true)
}

func (s *Server) patchServer(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.changeServer(r, false)
}

func (s *Server) changeServer(r *http.Request, replace bool) error {
	audit.InProject(r.Context(), "") // whatever the client is restricted to
	var put api.ServerPut
	if err := readJSON(r, &put); err != nil {
		return err
	}
	change := map[string]string{}
	for k, v := range put.Config {
		switch v := v.(type) {
		case string:
			change[k] = v
		case bool:
			change[k] = strconv.FormatBool(v)
		case float64: // as YAML reads what isn't quoted
			change[k] = strconv.FormatFloat(v, 'f', -1, 64)
		default:
			return kiln.Errorf(kiln.Invalid, "the value of %q is neither a text nor a number", k)
		}
	}
	check := func(set map[string]string) error { return checkETag(r, serverConfig(set)) }
	return s.d.SetSettingsIf(r.Context(), check, change, replace)
}
