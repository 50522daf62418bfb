package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// networks connect instances, for package instance.
type networks struct {
	d      *Daemon
	served network.Directory
	owner  string        // what marks the interfaces that are this daemon's
	stale  chan struct{} // an instance has another name, or is gone

	mu       sync.Mutex        // held while bridges and what is served are changed
	told     bool              // that this host can't have networks
	resting  bool              // the host goes down; bridges without instances go with the daemon
	unpassed map[string]string // by network, what was logged of firewalls that can't be told

	usage sync.Mutex     // never held with something slow
	using map[string]int // by network, how many are about to name it; -1: it is being deleted or renamed
}

func newNetworks(d *Daemon, dir string) *networks {
	n := &networks{d: d, served: network.Directory{Path: dir, Version: d.cfg.Version}, stale: make(chan struct{}, 1),
		unpassed: map[string]string{}, using: map[string]int{}}
	var err error
	if n.owner, err = n.served.Owner(d.cfg.Dir); err != nil {
		d.cfg.Log.Warn("mark what is this daemon's of the host's interfaces", "err", err)
	}
	return n
}

// Check says whether an interface can be connected to a network. Errors: NotFound, Invalid.
func (n *networks) Check(ctx context.Context, d map[string]string) error {
	if d["network"] == "" {
		return nil
	}
	row, err := n.d.db.Network(ctx, d["network"])
	if errors.Is(err, kiln.NotFound) {
		names, lerr := n.d.networkNames(ctx)
		return errors.Join(kiln.Errorf(kiln.NotFound, "there is no network %q%s; see: kiln network list", d["network"],
			kiln.DidYouMean(d["network"], names)), lerr)
	}
	if err != nil {
		return err
	}
	return checkFixed(n.d.plan(row), row.Config, d)
}

// Use keeps a network, named by itself or by its bridge, under its name until the function is
// called that it gives. The error is Conflict.
func (n *networks) Use(name string) (release func(), err error) { return n.use(name, false) }

// alone does work on a network, to delete or rename it, while nobody is about to name it or
// its bridge; who does already is in a row. Errors: Conflict, NotFound, Invalid, those of work.
func (n *networks) alone(ctx context.Context, name string, work func(Network) error) error {
	release, err := n.use(name, true)
	if err != nil {
		return err
	}
	defer release()
	row, err := n.d.managed(ctx, name)
	if err != nil {
		return err
	}
	if row.Bridge != "" && row.Bridge != name {
		if release, err = n.use(row.Bridge, true); err != nil {
			return err
		}
		defer release()
		if row, err = n.d.managed(ctx, name); err != nil { // who has named the bridge meanwhile is in it
			return err
		}
	}
	return work(row)
}

// use is Use, or, alone, for who deletes or renames a network: until nobody is about to name
// it, which the error says, and who does already is in a row.
func (n *networks) use(name string, alone bool) (release func(), err error) {
	n.usage.Lock()
	defer n.usage.Unlock()
	switch now := n.using[name]; {
	case now < 0:
		return nil, kiln.Errorf(kiln.Conflict, "network %q is being deleted or renamed; try again when that is done", name)
	case alone && now > 0:
		return nil, kiln.Errorf(kiln.Conflict, "network %q is being taken into use; try again when that is done", name)
	case alone:
		n.using[name] = -1
	default:
		n.using[name]++
	}
	return func() {
		n.usage.Lock()
		defer n.usage.Unlock()
		if n.using[name]--; alone || n.using[name] == 0 {
			delete(n.using, name)
		}
	}, nil
}

// checkFixed says whether an interface can have the addresses that it is to have.
func checkFixed(plan network.Network, config, d map[string]string) error {
	for key, subnet := range map[string]netip.Prefix{network.IPv4Key: plan.IPv4, network.IPv6Key: plan.IPv6} {
		v := d[key]
		if v == "" || config[key] == "auto" {
			continue
		}
		a, err := netip.ParseAddr(v)
		if err != nil {
			return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
		}
		if !subnet.IsValid() {
			return kiln.Errorf(kiln.Invalid, "%s: network %q has no addresses of that version of IP", key, plan.Name)
		}
		if err := network.CheckAddress(subnet, a); err != nil {
			return err
		}
	}
	return nil
}

// Connect gives an interface of an instance its bridge and its addresses.
func (n *networks) Connect(ctx context.Context, i instance.Instance, device string, d map[string]string) (box.Nic,
	instance.Resolver, error) {
	uuid := i.Options[instance.UUIDKey]
	mac := instance.Address(i.Options, device, d).String()
	kind := instance.NicKind(d)
	if kind != box.Pair {
		nic, err := apart(kind, mac, d)
		return nic, instance.Resolver{}, err
	}
	nic := box.Nic{HostName: cmp.Or(d["host_name"], network.HostName(uuid, device)), MAC: mac}
	nic.MTU, _ = strconv.Atoi(d["mtu"])
	if d["nictype"] == "p2p" {
		return nic, instance.Resolver{}, nil
	}
	if d["network"] == "" {
		nic.Parent = d["parent"]
		if err := network.IsBridge(nic.Parent); err != nil {
			return nic, instance.Resolver{}, err
		}
		return nic, instance.Resolver{}, bound(nic, db.Lease{}, d)
	}
	if err := n.Check(ctx, d); err != nil {
		return nic, instance.Resolver{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	on, err := n.up(ctx, d["network"])
	n.d.outcome(networkFailed, db.Subject{Network: d["network"]}, err)
	if err != nil {
		n.tellOnce(ctx, err)
		return nic, instance.Resolver{}, err
	}
	lease, err := n.lease(ctx, on, db.Lease{Project: i.Project, Instance: i.Name, Device: device, MAC: nic.MAC}, d)
	if err != nil {
		return nic, instance.Resolver{}, err
	}
	if err := n.serve(ctx, on); err != nil {
		return nic, instance.Resolver{}, err
	}
	if err := bound(nic, lease, d); err != nil {
		return nic, instance.Resolver{}, err
	}
	nic.Parent = on.Bridge
	if lease.IPv4.IsValid() {
		nic.IPv4, nic.Gateway = netip.PrefixFrom(lease.IPv4, on.IPv4.Bits()), on.IPv4.Addr()
	}
	if lease.IPv6.IsValid() {
		nic.IPv6 = netip.PrefixFrom(lease.IPv6, on.IPv6.Bits())
	}
	if nic.MTU == 0 {
		nic.MTU = on.MTU
	}
	r := instance.Resolver{Domain: on.Domain}
	if i.Project != project.Default {
		r.Domain = i.Project + "." + on.Domain + " " + on.Domain // its own neighbours first
	}
	if on.DNS {
		r.Address = on.IPv4.Addr()
	}
	return nic, r, nil
}

// bound has the bounds of an interface hold, or none where there are none.
func bound(nic box.Nic, lease db.Lease, d map[string]string) error {
	f, needMAC, bounded, err := instance.Bounds(d)
	if err != nil {
		return err
	}
	if !bounded {
		_ = network.RemoveFilter(nic.HostName) // of a daemon that died; a host that knows no filters has none
		return nil
	}
	f.Port, f.IPv4, f.IPv6 = nic.HostName, lease.IPv4, lease.IPv6
	if needMAC {
		if f.MAC, err = net.ParseMAC(nic.MAC); err != nil {
			return err
		}
	}
	return f.Set()
}

// Disconnect removes the bounds of an interface that is gone.
func (n *networks) Disconnect(host string) error { return network.RemoveFilter(host) }

// tellOnce tells whoever starts the first instance that this host can't have networks.
func (n *networks) tellOnce(ctx context.Context, err error) {
	if o := op.Of(ctx); o != nil && errors.Is(err, kiln.Unsupported) && !n.told {
		n.told = true
		o.Set("warning", fmt.Sprintf("%v; instances start without their interfaces", err))
	}
}

// apart gives an interface that goes past the bridges.
func apart(kind box.NicKind, mac string, d map[string]string) (box.Nic, error) {
	nic := box.Nic{Kind: kind, Parent: d["parent"]}
	nic.MTU, _ = strconv.Atoi(d["mtu"])
	if kind == box.MACVLAN {
		nic.MAC = mac
	}
	parent, err := network.Look(nic.Parent)
	if err != nil {
		return nic, err
	}
	if parent.Kind == "loopback" || kind == box.Physical && parent.Kind == "bridge" {
		return nic, kiln.Errorf(kiln.Invalid, "the interface %q of this host is a %s, and can't be the parent of a nic of "+
			"type %s", nic.Parent, parent.Kind, kind)
	}
	return nic, nil
}

// lease gives an interface the addresses that it has already, as long as they are of the
// network and not others'.
func (n *networks) lease(ctx context.Context, on network.Network, l db.Lease, d map[string]string) (db.Lease, error) {
	all, err := n.d.db.Leases(ctx, on.Name)
	if err != nil {
		return l, err
	}
	want, others := l, n.unknown(on)
	for _, o := range all {
		if o.Project == l.Project && o.Instance == l.Instance && o.Device == l.Device {
			want.IPv4, want.IPv6 = o.IPv4, o.IPv6
		} else {
			others = append(others, o)
		}
	}
	if err := choose(on, others, &want, d); err != nil {
		return l, err
	}
	if slices.Contains(all, want) {
		return want, nil
	}
	return n.d.db.SetLease(ctx, on.Name, l, func(others []db.Lease, l *db.Lease) error {
		return choose(on, append(others, n.unknown(on)...), l, d)
	})
}

// choose sets the addresses of a lease. Errors: Conflict, Invalid.
func choose(on network.Network, others []db.Lease, l *db.Lease, d map[string]string) error {
	holder := func(a netip.Addr) string {
		for _, o := range others {
			if a.IsValid() && (o.IPv4 == a || o.IPv6 == a) {
				return o.Instance
			}
		}
		return ""
	}
	mac, err := net.ParseMAC(l.MAC)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.MAC == l.MAC {
			return kiln.Errorf(kiln.Conflict, "the hwaddr %s is in use by instance %q", l.MAC, o.Instance)
		}
	}
	fixed4, _ := netip.ParseAddr(d[network.IPv4Key])
	fixed6, _ := netip.ParseAddr(d[network.IPv6Key])
	for _, a := range []netip.Addr{fixed4, fixed6} {
		if h := holder(a); h != "" {
			return kiln.Errorf(kiln.Conflict, "the address %s is in use by instance %q", a, h)
		}
	}
	switch {
	case !on.IPv4.IsValid():
		l.IPv4 = netip.Addr{}
	case fixed4.IsValid():
		l.IPv4, err = fixed4, network.CheckAddress(on.IPv4, fixed4)
	case !l.IPv4.IsValid() || network.CheckAddress(on.IPv4, l.IPv4) != nil || holder(l.IPv4) != "":
		l.IPv4, err = network.FreeAddress(on.IPv4, mac, func(a netip.Addr) bool { return holder(a) != "" })
	}
	if err != nil {
		return err
	}
	switch l.IPv6 = network.EUI64(on.IPv6, mac); {
	case fixed6.IsValid():
		l.IPv6, err = fixed6, network.CheckAddress(on.IPv6, fixed6)
	case !on.IPv6.IsValid():
		l.IPv6 = netip.Addr{}
	}
	return err
}

// Forget gives up the addresses of devices that an instance doesn't have any more.
func (n *networks) Forget(ctx context.Context, name string, but map[string]bool) error {
	removed, err := n.d.db.KeepLeases(ctx, name, but)
	if removed {
		n.changed()
	}
	return err
}

// up makes a network's bridge if it isn't there, with addresses that are free where the
// configuration doesn't say which.
func (n *networks) up(ctx context.Context, name string) (network.Network, error) {
	row, err := n.d.db.Network(ctx, name)
	if err != nil {
		return network.Network{}, err
	}
	plan := n.d.plan(row)
	bridge := row.Bridge
	if !plan.Owns(n.owner) { // it was never needed, or the host was started anew
		if bridge, err = plan.FreeInterface(n.owner); err != nil {
			return plan, err
		}
		if err := plan.CheckUnused(bridge); err != nil {
			return plan, err
		}
	}
	if bridge != row.Bridge || row.Config[network.IPv4Key] == "auto" || row.Config[network.IPv6Key] == "auto" {
		if row, err = n.settle(ctx, name, bridge); err != nil {
			return plan, err
		}
		plan = n.d.plan(row)
	}
	plan.Forwards = n.forwardsOf(row)
	if plan.DNSPort, err = n.dnsPort(plan); err != nil {
		return plan, err
	}
	if err := plan.Up(n.owner); err != nil {
		return plan, err
	}
	if plan.DNSPort == 0 { // now that the bridge has its address, it can be tried
		if plan.DNSPort, err = network.FreeDNSPort(plan.IPv4.Addr()); err != nil {
			return plan, kiln.Errorf(kiln.Conflict, "network %q: no port for DNS: %w", name, err)
		}
		if err := plan.Up(n.owner); err != nil {
			return plan, err
		}
	}
	n.pass(plan)
	return plan, n.serve(ctx, plan)
}

// pass has the other firewalls of this host let the packets of a network through. Where
// one can't be told, the instances run all the same.
func (n *networks) pass(plan network.Network) {
	said := ""
	if err := plan.PassFirewalls(); err != nil {
		said = err.Error()
	}
	if said != "" && n.unpassed[plan.Name] != said {
		n.d.cfg.Log.Warn("firewall", "network", plan.Name, "err", said)
	}
	n.unpassed[plan.Name] = said
}

// dnsPort gives the port that the names of a network are asked at; 0: it isn't known yet.
func (n *networks) dnsPort(plan network.Network) (int, error) {
	if !plan.DNS || !plan.IPv4.IsValid() {
		return plan.DNSPort, nil
	}
	for _, s := range n.served.Networks() {
		if s.Name == plan.Name && s.IPv4 == plan.IPv4 && s.Bridge == plan.Bridge && s.DNS && n.served.Running() &&
			plan.Owns(n.owner) {
			return s.DNSPort, nil
		}
	}
	return 0, nil
}

// settle writes down what a network is from now on.
func (n *networks) settle(ctx context.Context, name, bridge string) (row db.Network, err error) {
	used, err := n.used(ctx, name)
	if err != nil {
		return row, err
	}
	err = n.d.db.EditNetwork(ctx, name, func(r *db.Network) error {
		r.Bridge = bridge
		if plan := n.d.plan(*r); plan.Owns(n.owner) { // the instances on it know these addresses
			four, six := network.AddressesOf(bridge)
			if r.Config[network.IPv4Key] == "auto" && four.IsValid() {
				r.Config[network.IPv4Key] = four.String()
			}
			if r.Config[network.IPv6Key] == "auto" && six.IsValid() {
				r.Config[network.IPv6Key] = six.String()
			}
		}
		if r.Config[network.IPv4Key] == "auto" {
			p, err := network.FreeSubnet(used, network.Seed())
			if err != nil {
				return err
			}
			r.Config[network.IPv4Key] = p.String()
		}
		if r.Config[network.IPv6Key] == "auto" {
			r.Config[network.IPv6Key] = network.LocalIPv6().String()
		}
		row = *r
		return nil
	})
	return row, err
}

// used gives the subnets of this host, and of kiln's other networks.
func (n *networks) used(ctx context.Context, but string) ([]netip.Prefix, error) {
	used, err := network.InUse()
	if err != nil {
		return nil, err
	}
	rows, err := n.d.db.Networks(ctx)
	for _, r := range rows {
		if p := n.d.plan(r).IPv4; r.Name != but && p.IsValid() {
			used = append(used, p.Masked())
		}
	}
	return used, err
}

// checkFree refuses a subnet that overlaps with one of this host's. now is the one that
// the network has. Routes to whole ranges, such as a VPN's 10.0.0.0/8, are no reason.
func (n *networks) checkFree(ctx context.Context, r db.Network, now netip.Prefix) error {
	want := n.d.plan(r).IPv4
	if !want.IsValid() || now.IsValid() && want.Masked() == now.Masked() {
		return nil
	}
	used, err := n.used(ctx, r.Name)
	for _, u := range used {
		if u.Overlaps(want) && !network.IsWide(u) && !(now.IsValid() && now.Masked().Overlaps(u)) {
			return kiln.Errorf(kiln.Conflict, "the subnet %s of network %q overlaps with %s, which this host or another "+
				"network uses; take another one, or ipv4.address=auto", want.Masked(), r.Name, u)
		}
	}
	return err
}

// HostName is what an instance is called on a network: those that aren't of the default
// project by their project, too, as instances of another one have the same names.
func HostName(l db.Lease) string {
	if l.Project == project.Default {
		return l.Instance
	}
	return l.Instance + "." + l.Project
}

// serve has netd serve a network to the instances that have addresses on it.
func (n *networks) serve(ctx context.Context, plan network.Network) error {
	leases, err := n.d.db.Leases(ctx, plan.Name)
	if err != nil {
		return err
	}
	unknown := n.unknown(plan)
	plan.Hosts = nil
	for _, l := range leases {
		plan.Hosts = append(plan.Hosts, network.Host{Name: HostName(l), MAC: l.MAC, IPv4: l.IPv4, IPv6: l.IPv6})
	}
	for _, l := range unknown {
		h := network.Host{Name: HostName(l), MAC: l.MAC, IPv4: l.IPv4, IPv6: l.IPv6}
		if slices.ContainsFunc(plan.Hosts, func(o network.Host) bool { return o.Name == h.Name }) {
			h.Name = "unknown-" + strings.ReplaceAll(h.MAC, ":", "") // it goes on with its addresses
		}
		plan.Hosts = append(plan.Hosts, h)
	}
	return n.served.Set(plan)
}

// down removes a network's bridge, and has netd serve it no more.
func (n *networks) down(ctx context.Context, name string) error {
	row, err := n.d.db.Network(ctx, name)
	if err != nil {
		return err
	}
	if row.Bridge != "" {
		if err := n.d.plan(row).Down(n.owner); err != nil {
			return err
		}
	}
	return n.served.Remove(name)
}

// changed has what is served brought up to date soon.
func (n *networks) changed() {
	select {
	case n.stale <- struct{}{}:
	default:
	}
}

// start brings up the networks that were, and has a netd of this version serve them.
func (n *networks) start(ctx context.Context) {
	rows, err := n.d.db.Networks(ctx)
	if err != nil {
		n.d.cfg.Log.Error("start networks", "err", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reclaim(ctx, rows)
	for _, r := range rows {
		if r.Bridge == "" {
			continue
		}
		plan, err := n.up(ctx, r.Name)
		n.d.outcome(networkFailed, db.Subject{Network: r.Name}, err)
		if err != nil {
			n.d.cfg.Log.Error("start network", "network", r.Name, "err", err)
			continue
		}
		if err := plan.CheckUnused(plan.Bridge); err != nil { // by what came while instances ran
			n.d.cfg.Log.Warn("what is sent to instances may go elsewhere", "err", err)
		}
	}
}

// rest takes down the bridges that nothing is connected to, with what serves them. They
// come back with the next daemon.
func (n *networks) rest(ctx context.Context) error {
	rows, err := n.d.db.Networks(ctx)
	errs := []error{err}
	n.mu.Lock()
	defer n.mu.Unlock()
	used := false
	for _, r := range rows {
		plan := n.d.plan(r)
		switch {
		case r.Bridge == "" || !plan.Owns(n.owner):
		case network.HasPorts(r.Bridge):
			used = true
		default:
			errs = append(errs, plan.Down(n.owner))
		}
	}
	if !used {
		errs = append(errs, n.served.Stop())
	}
	return errors.Join(errs...)
}

// follow keeps what is served up to date, until the daemon ends.
func (n *networks) follow() {
	for {
		select {
		case <-n.d.ctx.Done():
			return
		case <-n.stale:
		}
		n.mu.Lock()
		for _, s := range n.served.Networks() {
			if err := n.serve(n.d.ctx, s); err != nil && n.d.ctx.Err() == nil {
				n.d.cfg.Log.Warn("serve network", "network", s.Name, "err", err)
			}
		}
		n.mu.Unlock()
	}
}

// watch keeps netd running, until the daemon ends.
func (n *networks) watch() {
	n.served.Watch(n.d.ctx, func(err error) { n.d.cfg.Log.Warn("start "+network.Program, "err", err) })
}

// besideFirewalls puts the rules in other firewalls again when those were loaded anew, until
// the daemon ends.
func (n *networks) besideFirewalls() {
	err := network.WatchFirewalls(n.d.ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, s := range n.served.Networks() {
			if s.Owns(n.owner) {
				n.pass(s)
			}
		}
	})
	if err != nil && !errors.Is(err, unix.EPERM) { // who may not watch can't have networks either
		n.d.cfg.Log.Warn("rules that other programs remove from firewalls are not put again", "err", err)
	}
}

// heard tells the networks what became of an instance.
func (n *networks) heard(action string) {
	if strings.HasSuffix(action, "renamed") || strings.HasSuffix(action, "deleted") {
		n.changed()
	}
}
