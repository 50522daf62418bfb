package server

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
)

func wireNetwork(n daemon.Network, to caller) api.Network {
	used := []string{}
	for _, i := range n.Instances {
		if to.mayUse(i.Project) {
			used = append(used, inURL("/1.0/instances/"+i.Name, i.Project))
		}
	}
	for _, p := range n.Profiles {
		if to.mayUse(p.Project) {
			used = append(used, inURL("/1.0/profiles/"+segment(p.Name), p.Project))
		}
	}
	out := api.Network{Name: n.Name, Type: n.Kind, Managed: n.Managed, UsedBy: used, Locations: []string{"none"},
		NetworkPut: networkPut(n.Network)}
	out.Description = described(n.Description, n.Damage)
	if n.Managed {
		out.Status = "Created"
	}
	return out
}

// networkPut is what a network's ETag stands for.
func networkPut(n db.Network) api.NetworkPut {
	return api.NetworkPut{Config: orEmpty(n.Config), Description: n.Description}
}

func (s *Server) getNetworks(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Networks(r.Context())
	if err != nil {
		return nil, err
	}
	networks := []api.Network{}
	for _, n := range all {
		if n.Managed || !callerOf(r).restricted {
			networks = append(networks, wireNetwork(n, callerOf(r)))
		}
	}
	return list(r, networks, func(n api.Network) string { return "/1.0/networks/" + n.Name })
}

func (s *Server) postNetworks(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.NetworksPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	err := s.d.CreateNetwork(r.Context(), db.Network{Name: post.Name, Description: post.Description, Config: post.Config},
		post.Type)
	return created("/1.0/networks/" + segment(post.Name)), err
}

// network finds the network of a request. The interfaces of the host are nothing for a
// restricted client.
func (s *Server) network(r *http.Request) (daemon.Network, error) {
	n, err := s.d.Network(r.Context(), r.PathValue("name"))
	if err == nil && !n.Managed && callerOf(r).restricted {
		return daemon.Network{}, kiln.Errorf(kiln.NotFound, "Network not found")
	}
	return n, err
}

func (s *Server) getNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	n, err := s.network(r)
	return tagged{wireNetwork(n, callerOf(r)), networkPut(n.Network)}, err
}

func (s *Server) putNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.NetworkPut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.changeNetwork(r, func(api.NetworkPut) api.NetworkPut { return put })
}

func (s *Server) patchNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Description *string
		Config      map[string]string
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return nil, s.changeNetwork(r, func(n api.NetworkPut) api.NetworkPut {
		if change.Description != nil {
			n.Description = *change.Description
		}
		n.Config = merged(n.Config, change.Config)
		return n
	})
}

func (s *Server) changeNetwork(r *http.Request, change func(api.NetworkPut) api.NetworkPut) error {
	return s.d.UpdateNetwork(r.Context(), r.PathValue("name"), func(n db.Network) (db.Network, error) {
		if err := checkETag(r, networkPut(n)); err != nil {
			return n, err
		}
		put := change(networkPut(n))
		return db.Network{Description: put.Description, Config: put.Config}, nil
	})
}

func (s *Server) postNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	return created("/1.0/networks/" + segment(to.Name)), s.d.RenameNetwork(r.Context(), r.PathValue("name"), to.Name)
}

func (s *Server) deleteNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteNetwork(r.Context(), r.PathValue("name"))
}

func (s *Server) getNetworkLeases(w http.ResponseWriter, r *http.Request) (any, error) {
	leases, err := s.d.Leases(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	list := []api.NetworkLease{}
	for _, l := range leases {
		if !callerOf(r).mayUse(l.Project) {
			continue
		}
		for _, a := range []netip.Addr{l.IPv4, l.IPv6} {
			if a.IsValid() {
				list = append(list, api.NetworkLease{Hostname: daemon.HostName(l), Hwaddr: l.MAC, Address: a.String(),
					Type: "dynamic", Location: "none"})
			}
		}
	}
	return list, nil
}

func (s *Server) getNetworkState(w http.ResponseWriter, r *http.Request) (any, error) {
	n, err := s.network(r)
	if err != nil {
		return nil, err
	}
	i, err := s.d.NetworkState(r.Context(), n.Name)
	if err != nil {
		return nil, err
	}
	out := api.NetworkState{Addresses: []api.InstanceStateNetworkAddress{}, Hwaddr: i.HardwareAddr.String(), Mtu: i.MTU,
		State: "down", Type: "broadcast",
		Counters: api.InstanceStateNetworkCounters{BytesReceived: int64(i.BytesIn), BytesSent: int64(i.BytesOut),
			PacketsReceived: int64(i.PacketsIn), PacketsSent: int64(i.PacketsOut)}}
	if i.Flags&net.FlagUp != 0 {
		out.State = "up"
	}
	if i.Flags&net.FlagLoopback != 0 {
		out.Type = "loopback"
	}
	for _, a := range i.Addresses {
		out.Addresses = append(out.Addresses, wireAddress(a))
	}
	return out, nil
}

// wireAddress tells of an address of an interface.
func wireAddress(a net.IPNet) api.InstanceStateNetworkAddress {
	ones, _ := a.Mask.Size()
	out := api.InstanceStateNetworkAddress{Family: "inet6", Address: a.IP.String(), Netmask: strconv.Itoa(ones),
		Scope: "global"}
	if a.IP.To4() != nil {
		out.Family = "inet"
	}
	switch {
	case a.IP.IsLoopback():
		out.Scope = "local"
	case a.IP.IsLinkLocalUnicast():
		out.Scope = "link"
	}
	return out
}

func (s *Server) explainNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	found, err := s.d.ExplainNetwork(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	list := []api.NetworkFinding{}
	for _, f := range found {
		list = append(list, api.NetworkFinding{Device: f.Device, Check: f.Check, Broken: f.Broken, Detail: f.Detail,
			Cure: f.Cure})
	}
	return list, nil
}
