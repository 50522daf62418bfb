package server

import (
	"net/http"

	"github.com/kiln-containers/kiln/api"
)

// pool tells of the one pool that there is.
func (s *Server) pool(r *http.Request) (api.StoragePool, error) {
	p := api.StoragePool{Name: "default", Description: "Default kiln pool", Driver: "overlay", Status: "Created",
		Config: map[string]string{}, UsedBy: []string{}, Locations: []string{"none"}}
	instances, profiles, volumes, err := s.d.PoolUsers(r.Context())
	use := func(path, in string) {
		if callerOf(r).mayUse(in) {
			p.UsedBy = append(p.UsedBy, inURL(path, in))
		}
	}
	for _, i := range instances {
		use("/1.0/instances/"+i.Name, i.Project)
	}
	for _, profile := range profiles {
		use("/1.0/profiles/"+segment(profile.Name), profile.Project)
	}
	for _, v := range volumes {
		use(customVolumes+segment(v.Name), v.In)
	}
	return p, err
}

func (s *Server) getPools(w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := s.pool(r)
	if err != nil {
		return nil, err
	}
	return list(r, []api.StoragePool{p}, func(p api.StoragePool) string { return "/1.0/storage-pools/" + p.Name })
}

func (s *Server) getPool(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := inPool(r); err != nil {
		return nil, err
	}
	p, err := s.pool(r)
	return tagged{p, p.Config}, err
}

func (s *Server) getPoolResources(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := inPool(r); err != nil {
		return nil, err
	}
	st, err := s.d.PoolUsage()
	block := uint64(st.Bsize)
	return api.StoragePoolResources{
		Space:  api.ResourceUse{Used: (st.Blocks - st.Bfree) * block, Total: st.Blocks * block},
		Inodes: api.ResourceUse{Used: st.Files - st.Ffree, Total: st.Files},
	}, err
}
