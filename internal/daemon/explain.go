package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
			list = append(list, wrong(device, "network", err.Error(), "kiln network create "+keys["network"]+", and: kiln "+
				"restart "+name))
			continue
		}
		found, err := d.explainNic(ctx, i, device, keys, d.plan(row))
		if err != nil {
			return nil, err
		}
		found.Init = init
		if found.Host.Name == "" {
			check, detail, cure := "lease", "it has no address on network "+row.Name, "kiln restart "+name
			if err := d.networks.possible(ctx, row.Name); err != nil { // as a restart would find
				check, detail, cure = "network", err.Error(), "give it what it lacks, and: "+cure
			}
			list = append(list, wrong(device, check, detail, cure))
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
		on, first, err := d.anyNetwork(ctx)
		if err != nil {
			return nil, err
		}
		list = append(list, wrong("", "interface", "it has no interface", first+"kiln config device add "+name+" "+
			freeDevice(i)+" nic network="+on))
	}
	return list, nil
}

// freeDevice gives a name for an interface that no device of an instance has.
func freeDevice(i instance.Instance) string {
	for n := 0; ; n++ {
		name := fmt.Sprintf("eth%d", n)
		_, taken := i.Devices[name]
		if _, theirs := i.ExpandedDevices[name]; !taken && !theirs {
			return name
		}
	}
}

// anyNetwork gives a network to connect to, the default one if it is there, and what to do
// first if there is none.
func (d *Daemon) anyNetwork(ctx context.Context) (name, first string, err error) {
	all, err := d.db.Networks(ctx)
	for _, n := range all {
		if name == "" || n.Name == defaultNetwork {
			name = n.Name
		}
	}
	if name == "" {
		return defaultNetwork, "kiln network create " + defaultNetwork + ", and: ", err
	}
	return name, "", err
}

// possible says why a network can't be brought up. It is then, as when an instance starts.
func (n *networks) possible(ctx context.Context, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err := n.up(ctx, name)
	return err
}

// explainNic says where an interface is, and what its lease is.
func (d *Daemon) explainNic(ctx context.Context, i instance.Instance, device string, keys map[string]string,
	on network.Network) (network.Port, error) {
	uuid := i.Options[instance.UUIDKey]
	p := network.Port{HostName: cmp.Or(keys["host_name"], network.HostName(uuid, device)),
		MAC: instance.Address(i.Options, device, keys).String()}
	leases, err := d.db.Leases(ctx, on.Name)
	for _, l := range leases {
		if l.Project == i.Project && l.Instance == i.Name && l.Device == device {
			p.Host = network.Host{Name: l.Instance, MAC: l.MAC, IPv4: l.IPv4, IPv6: l.IPv6}
		}
	}
	return p, err
}
