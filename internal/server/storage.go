package server

import (
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func thePool() api.StoragePool {
	return api.StoragePool{Name: "default", Description: "Default kiln pool", Driver: "overlay", Status: "Created",
		Config: map[string]string{}, UsedBy: []string{"/1.0/profiles/default"}, Locations: []string{"none"}}
}

func (s *Server) getPools(w http.ResponseWriter, r *http.Request) (any, error) {
	return list(r, []api.StoragePool{thePool()}, func(p api.StoragePool) string { return "/1.0/storage-pools/" + p.Name })
}

func (s *Server) getPool(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.PathValue("name") != "default" {
		return nil, kiln.Errorf(kiln.NotFound, "Storage pool not found")
	}
	return tagged{thePool(), thePool().Config}, nil
}

func (s *Server) getPoolResources(w http.ResponseWriter, r *http.Request) (any, error) {
	st, err := s.d.PoolUsage()
	block := uint64(st.Bsize)
	return api.StoragePoolResources{
		Space:  api.ResourceUse{Used: (st.Blocks - st.Bfree) * block, Total: st.Blocks * block},
		Inodes: api.ResourceUse{Used: st.Files - st.Ffree, Total: st.Files},
	}, err
}
