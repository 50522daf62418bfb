package daemon

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
)

// A Finding is what one look at the way of an instance's packets showed.
type Finding struct {
	Device string // "": it is of the instance
	network.Finding
}

// ExplainNetwork walks the way of an instance's packets and says what is broken on it. The
// error is NotFound.
func (d *Daemon) ExplainNetwork(ctx context.Context, name string) ([]Finding, error) {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	wrong := func(device, check, detail, cure string) Finding {
		return Finding{device, network.Finding{Check: check, Broken: true, Detail: detail, Cure: cure}}
	}
	init, err := d.instances.Init(ctx, name)
	if kiln.KindOf(err) == kiln.Conflict {
		return []Finding{wrong("", "instance", "it doesn't run", "kiln start "+name)}, nil
	}
	if err != nil {
		return nil, err
	}
	defer init.Close()
	list := []Finding{}
	for _, device := range slices.Sorted(maps.Keys(i.ExpandedDevices)) {
		keys := i.ExpandedDevices[device]
		if keys["type"] != "nic" {
			continue
		}
		if keys["network"] == "" {
			list = append(list, Finding{device, network.Finding{Check: "bridge", Detail: "it is connected to the host's " +
				keys["parent"] + ", which kiln has nothing to do with"}})
			continue
		}
		row, err := d.db.Network(ctx, keys["network"])
		if err != nil {
			list = append(list, wrong(device, "network", err.Error(), "kiln network list"))
			continue
		}
		found, err := d.explainNic(ctx, i, device, keys, d.plan(row))
		if err != nil {
			return nil, err
		}
		found.Init = init
		if found.Host.Name == "" {
			list = append(list, wrong(device, "lease", "it has no address on network "+row.Name, "kiln restart "+name))
			continue
		}
		for _, f := range d.plan(row).Explain(d.networks.owner, found) {
			list = append(list, Finding{device, f})
		}
		if !d.networks.served.Running() {
			list = append(list, wrong(device, "netd", "nothing serves DHCP and DNS", "restart the daemon; its log says why "+
				"netd doesn't run"))
		}
	}
	if len(list) == 0 {
		list = append(list, wrong("", "interface", "it has no interface", "kiln config device add "+name+" eth0 nic network="+
			defaultNetwork))
	}
	return list, nil
}

// explainNic says where an interface is, and what its lease is.
func (d *Daemon) explainNic(ctx context.Context, i instance.Instance, device string, keys map[string]string,
	on network.Network) (network.Port, error) {
	uuid := i.Options[instance.UUIDKey]
	p := network.Port{HostName: cmp.Or(keys["host_name"], network.HostName(uuid, device)),
		MAC: network.MAC(uuid, device).String()}
	if mac, err := net.ParseMAC(keys["hwaddr"]); err == nil {
		p.MAC = mac.String()
	}
	leases, err := d.db.Leases(ctx, on.Name)
	for _, l := range leases {
		if l.Project == i.Project && l.Instance == i.Name && l.Device == device {
			p.Host = network.Host{Name: l.Instance, MAC: l.MAC, IPv4: l.IPv4, IPv6: l.IPv6}
		}
	}
	return p, err
}
