package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/project"
)

// defaultNetwork is the network that a new daemon has: its bridge is made when the first
// instance is connected to it.
const defaultNetwork = "kilnbr0"

// A Network is a network of kiln's, or an interface of this host.
type Network struct {
	db.Network
	Managed             bool
	Kind                string    // "bridge", "physical", "loopback", …
	Instances, Profiles []db.Name // that use it
}

// Networks gives every network and every interface of this host, by name.
func (d *Daemon) Networks(ctx context.Context) ([]Network, error) {
	rows, err := d.db.Networks(ctx)
	if err != nil {
		return nil, err
	}
	ctx = project.InAll(ctx) // they are the default project's, and all use them
	instances, err := d.instances.List(ctx)
	if err != nil {
		return nil, err
	}
	profiles, err := d.db.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	var list []Network
	ours := map[string]bool{}
	for _, r := range rows {
		list = append(list, withNetworkUsers(Network{Network: r, Managed: true, Kind: "bridge"}, instances, profiles))
		ours[r.Name] = true
		if d.plan(r).Owns(d.networks.owner) {
			ours[r.Bridge] = true
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		if ours[i.Name] {
			continue
		}
		// One may have gone meanwhile; a veth is an instance's, or another program's.
		if seen, err := network.Look(i.Name); err == nil && seen.Kind != "veth" {
			n := Network{Network: db.Network{Name: i.Name}, Kind: seen.Kind}
			list = append(list, withNetworkUsers(n, instances, profiles))
		}
	}
	slices.SortFunc(list, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Network gives one network, or an interface of this host. The error is NotFound.
func (d *Daemon) Network(ctx context.Context, name string) (Network, error) {
	list, err := d.Networks(ctx)
	if err != nil {
		return Network{}, err
	}
	var names []string
	for _, n := range list {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Network{}, kiln.Errorf(kiln.NotFound, "Network %q not found%s", name, kiln.DidYouMean(name, names))
}

func withNetworkUsers(n Network, instances []instance.Instance, profiles []db.Profile) Network {
	uses := func(devices map[string]map[string]string) bool {
		for _, d := range devices {
			if d["type"] == "nic" && (n.Managed && d["network"] == n.Name || d["parent"] == cmp.Or(n.Bridge, n.Name)) {
				return true
			}
		}
		return false
	}
	for _, i := range instances {
		if uses(i.ExpandedDevices) {
			n.Instances = append(n.Instances, db.Name{Project: i.Project, Name: i.Name})
		}
	}
	for _, p := range profiles {
		if uses(p.Devices) {
			n.Profiles = append(n.Profiles, db.Name{Project: p.Project, Name: p.Name})
		}
	}
	return n
}

// users names who uses a network, for errors.
func (n Network) users() string {
	var all []string
	for _, i := range n.Instances {
		all = append(all, "instance "+i.String())
	}
	for _, p := range n.Profiles {
		all = append(all, "profile "+p.String())
	}
	return strings.Join(all, ", ")
}

// managed gives a network of kiln's. Errors: NotFound, Invalid for an interface of the host.
func (d *Daemon) managed(ctx context.Context, name string) (Network, error) {
	n, err := d.Network(ctx, name)
	if err == nil && !n.Managed {
		err = kiln.Errorf(kiln.Invalid, "%q is an interface of this host, not a network of kiln's; kiln doesn't "+
			"change it", name)
	}
	return n, err
}

// newNetwork completes the configuration of a network by what isn't said: addresses that
// are free, and NAT.
func newNetwork(config map[string]string) map[string]string {
	out := withoutEmpty(config)
	if out == nil {
		out = map[string]string{}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		if out[family+".address"] == "" {
			out[family+".address"] = "auto"
		}
		if out[family+".address"] != "none" && out[family+".nat"] == "" {
			out[family+".nat"] = "true"
		}
	}
	return out
}

// checkInterface refuses a name for a network that is that of an interface of this host,
// unless that is of a network whose row is lost. The error is Conflict.
func (d *Daemon) checkInterface(name string) error {
	if _, err := network.Look(name); err != nil || (network.Network{Name: name, Bridge: name}).Owns(d.networks.owner) {
		return nil
	}
	return kiln.Errorf(kiln.Conflict, "this host has an interface %q already; take another name for the network", name)
}

// CreateNetwork makes a network and its bridge. Errors: Invalid, Conflict, Unsupported.
func (d *Daemon) CreateNetwork(ctx context.Context, n db.Network, kind string) error {
	if kind != "" && kind != "bridge" {
		return kiln.Errorf(kiln.Unsupported, "networks of type %q are not supported by this version of kiln; it has bridge",
			kind)
	}
	err := cmp.Or(network.CheckName(n.Name), network.Check(n.Config), kiln.CheckDescription(n.Description))
	if err != nil {
		return err
	}
	if err := d.freeNetwork(ctx, n.Name); err != nil {
		return err
	}
	if err := d.checkInterface(n.Name); err != nil {
		return err
	}
	n.Config, n.Bridge = newNetwork(n.Config), ""
	d.networks.mu.Lock()
	defer d.networks.mu.Unlock()
	if err := d.networks.checkFree(ctx, n, netip.Prefix{}); err != nil {
		return err
	}
	if err := d.db.CreateNetwork(ctx, n); err != nil {
		return err
	}
	if _, err := d.networks.up(ctx, n.Name); err != nil {
		down := d.networks.down(ctx, n.Name)
		if errors.Is(down, kiln.Unsupported) { // for the same reason
			down = nil
		}
		return errors.Join(err, down, d.db.DeleteNetwork(context.WithoutCancel(ctx), n.Name))
	}
	d.tell(ctx, "network-created", networkURL(n.Name), nil)
	return nil
}

// freeNetwork says that there is a network of this name. The error is Conflict.
func (d *Daemon) freeNetwork(ctx context.Context, name string) error {
	_, err := d.db.Network(ctx, name)
	switch {
	case err == nil:
		return kiln.Errorf(kiln.Conflict, "network %q already exists; give another name, or change that one: kiln network "+
			"edit %[1]s", name)
	case errors.Is(err, kiln.NotFound):
		return nil
	}
	return err
}

// UpdateNetwork replaces what a user may change of a network by what change makes of it.
// Errors: NotFound, Invalid, Unsupported, Conflict when instances that run would lose
// their addresses, and change's.
func (d *Daemon) UpdateNetwork(ctx context.Context, name string, change func(db.Network) (db.Network, error)) error {
	n, err := d.managed(ctx, name)
	if err != nil {
		return err
	}
	d.networks.mu.Lock()
	defer d.networks.mu.Unlock()
	var before db.Network
	var next db.Network
	err = d.db.EditNetwork(ctx, name, func(r *db.Network) error {
		before = *r
		next, err = change(before)
		if err != nil {
			return err
		}
		if err := cmp.Or(network.Check(next.Config), kiln.CheckDescription(next.Description)); err != nil {
			return err
		}
		next.Name, next.Bridge, next.Config = name, before.Bridge, newNetwork(next.Config)
		next.Forwards = before.Forwards
		*r = next
		return d.checkRunning(ctx, n, before, next)
	})
	if err != nil {
		return err
	}
	undo := func(err error) error {
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, d.db.EditNetwork(ctx, name, func(r *db.Network) error { *r = before; return nil }))
		if before.Bridge != "" {
			_, again := d.networks.up(ctx, name)
			err = errors.Join(err, again)
		}
		return err
	}
	if err := d.networks.checkFree(ctx, next, d.plan(before).IPv4); err != nil {
		return undo(err)
	}
	if next.Bridge != "" {
		if _, err := d.networks.up(ctx, name); err != nil {
			return undo(err)
		}
	}
	d.tell(ctx, "network-updated", networkURL(name), nil)
	return nil
}

// checkRunning refuses a change that takes their addresses from instances that run.
func (d *Daemon) checkRunning(ctx context.Context, n Network, before, next db.Network) error {
	for _, key := range []string{network.IPv4Key, network.IPv6Key, "bridge.mtu"} {
		if before.Config[key] == next.Config[key] {
			continue
		}
		for _, name := range n.Instances {
			in, err := d.In(ctx, name.Project)
			if err != nil {
				return err
			}
			i, err := d.instances.Get(in, name.Name)
			if err == nil && i.Status != instance.Stopped && i.Status != instance.Broken {
				return kiln.Errorf(kiln.Conflict, "%s of network %q can't be changed while instance %q runs on it; stop it first; "+
					"nothing was changed", key, n.Name, name)
			}
		}
	}
	return nil
}

// RenameNetwork gives a network that nobody uses another name.
// Errors: NotFound, Invalid, Conflict.
func (d *Daemon) RenameNetwork(ctx context.Context, from, to string) error {
	return d.networks.alone(ctx, from, func(n Network) error { return d.renameNetwork(ctx, n, to) })
}

func (d *Daemon) renameNetwork(ctx context.Context, n Network, to string) error {
	from := n.Name
	if err := network.CheckName(to); err != nil {
		return err
	}
	if u := n.users(); u != "" {
		return kiln.Errorf(kiln.Conflict, "network %q is in use by: %s; take it from them first", from, u)
	}
	if err := d.checkInterface(to); err != nil {
		return err
	}
	if err := d.freeNetwork(ctx, to); err != nil {
		return err
	}
	d.networks.mu.Lock()
	defer d.networks.mu.Unlock()
	if n.Bridge != "" {
		if err := d.networks.down(ctx, from); err != nil {
			return err
		}
	}
	if err := d.db.RenameNetwork(ctx, from, to); err != nil {
		if n.Bridge != "" {
			_, again := d.networks.up(context.WithoutCancel(ctx), from)
			err = errors.Join(err, again)
		}
		return err
	}
	if n.Bridge != "" {
		err := d.db.EditNetwork(ctx, to, func(r *db.Network) error { r.Bridge = ""; return nil })
		if err == nil {
			_, err = d.networks.up(ctx, to)
		}
		if err != nil {
			return err
		}
	}
	d.tell(ctx, "network-renamed", networkURL(to), map[string]any{"old_name": from})
	return nil
}

// DeleteNetwork removes a network that nobody uses. Errors: NotFound, Invalid, Conflict.
func (d *Daemon) DeleteNetwork(ctx context.Context, name string) error {
	return d.networks.alone(ctx, name, func(n Network) error { return d.deleteNetwork(ctx, n) })
}

func (d *Daemon) deleteNetwork(ctx context.Context, n Network) error {
	name := n.Name
	if u := n.users(); u != "" {
		return kiln.Errorf(kiln.Conflict, "network %q is in use by: %s; take it from them first", name, u)
	}
	d.networks.mu.Lock()
	defer d.networks.mu.Unlock()
	if err := d.networks.down(ctx, name); err != nil {
		return err
	}
	if err := d.db.DeleteNetwork(ctx, name); err != nil {
		return err
	}
	d.tell(ctx, "network-deleted", networkURL(name), nil)
	return nil
}

// NetworkState looks at the interface of a network. The error is NotFound.
func (d *Daemon) NetworkState(ctx context.Context, name string) (network.Interface, error) {
	n, err := d.Network(ctx, name)
	if err != nil {
		return network.Interface{}, err
	}
	if n.Managed && !d.plan(n.Network).Owns(d.networks.owner) { // it wasn't needed yet
		return network.Interface{Kind: "bridge"}, nil
	}
	return network.Look(cmp.Or(n.Bridge, n.Name))
}

// Leases gives the addresses of instances on a network. Errors: NotFound, Invalid.
func (d *Daemon) Leases(ctx context.Context, name string) ([]db.Lease, error) {
	if _, err := d.managed(ctx, name); err != nil {
		return nil, err
	}
	return d.db.Leases(ctx, name)
}

// plan is what the row of a network comes to.
func (d *Daemon) plan(r db.Network) network.Network {
	n := network.Plan(r.Name, r.Config)
	n.Bridge = r.Bridge
	return n
}

func networkURL(name string) string { return "/1.0/networks/" + name }

// networkNames gives the names of kiln's networks.
func (d *Daemon) networkNames(ctx context.Context) ([]string, error) {
	rows, err := d.db.Networks(ctx)
	names := map[string]bool{}
	for _, r := range rows {
		names[r.Name] = true
	}
	return slices.Sorted(maps.Keys(names)), err
}
