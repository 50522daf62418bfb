package server

import (
	"net"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func networks() ([]api.Network, error) {
	interfaces, err := net.Interfaces()
	all := []api.Network{}
	for _, i := range interfaces {
		kind := "physical"
		if i.Flags&net.FlagLoopback != 0 {
			kind = "loopback"
		}
		all = append(all, api.Network{Name: i.Name, Type: kind, Config: map[string]string{}, UsedBy: []string{},
			Locations: []string{"none"}})
	}
	return all, err
}

func (s *Server) getNetworks(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := networks()
	if err != nil {
		return nil, err
	}
	return list(r, all, func(n api.Network) string { return "/1.0/networks/" + n.Name })
}

func (s *Server) getNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := networks()
	for _, n := range all {
		if n.Name == r.PathValue("name") {
			return n, nil
		}
	}
	if err == nil {
		err = kiln.Errorf(kiln.NotFound, "Network not found")
	}
	return nil, err
}
