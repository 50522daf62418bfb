package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/proxy"
)

const targetKey = "target_address"

// mostForwardPorts is how many ports one forward may have: each can be a rule.
const mostForwardPorts = 4096

// parseForward says what a forward of a network comes to. Errors: Invalid.
func parseForward(on network.Network, listen string, f db.Forward) ([]network.Forward, error) {
	at, err := netip.ParseAddr(listen)
	if err != nil || at.Zone() != "" || at.IsLoopback() || at.IsMulticast() {
		return nil, kiln.Errorf(kiln.Invalid, "the listen address %q is not an address of this host such as 192.0.2.1; "+
			"0.0.0.0 and :: are all of them, and the loopback's can't be forwarded", listen)
	}
	base := network.Forward{For: fmt.Sprintf("the forward %s of network %q", at, on.Name), Listen: at.Unmap()}
	subnet := on.IPv4
	if base.Listen.Is6() {
		subnet = on.IPv6
	}
	target := func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return a, kiln.Errorf(kiln.Invalid, "the target address %q is not an address", s)
		}
		return a, network.CheckAddress(subnet, a)
	}
	var list []network.Forward
	count := 0
	for _, p := range f.Ports {
		one := base
		if one.Protocol = p.Protocol; p.Protocol != "tcp" && p.Protocol != "udp" {
			return nil, kiln.Errorf(kiln.Invalid, "the protocol %q is neither tcp nor udp", p.Protocol)
		}
		if one.Ports, err = proxy.ParsePorts(p.Listen); err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "the list of ports %w", err)
		}
		if p.Target != "" {
			if one.TargetPorts, err = proxy.ParsePorts(p.Target); err != nil {
				return nil, kiln.Errorf(kiln.Invalid, "the list of target ports %w", err)
			}
		}
		if n := len(one.TargetPorts); n > 1 && n != len(one.Ports) {
			return nil, kiln.Errorf(kiln.Invalid, "there are %d ports and %d target ports; give one, or as many",
				len(one.Ports), n)
		}
		if one.Target, err = target(p.Address); err != nil {
			return nil, err
		}
		if count += len(one.Ports); count > mostForwardPorts {
			return nil, kiln.Errorf(kiln.Invalid, "a forward has at most %d ports", mostForwardPorts)
		}
		list = append(list, one)
	}
	for _, key := range slices.Sorted(maps.Keys(f.Config)) {
		switch {
		case strings.HasPrefix(key, "user."):
		case key != targetKey:
			return nil, kiln.Errorf(kiln.Invalid, "Unknown forward key: %q; there are %s and user.*", key, targetKey)
		case f.Config[key] != "":
			if base.Target, err = target(f.Config[key]); err != nil {
				return nil, err
			}
			if base.Listen.IsUnspecified() {
				return nil, kiln.Errorf(kiln.Invalid, "%s would take everything that is sent to this host; name one of its "+
					"addresses, or ports", targetKey)
			}
			list = append(list, base)
		}
	}
	return list, nil
}

// ForwardTargets gives the addresses that a forward leads to.
func ForwardTargets(f db.Forward) []string {
	var list []string
	if a := f.Config[targetKey]; a != "" {
		list = append(list, a)
	}
	for _, p := range f.Ports {
		list = append(list, p.Address)
	}
	return list
}

// ForwardName is an address as forwards are named; what is none stays as it is.
func ForwardName(listen string) string {
	if a, err := netip.ParseAddr(listen); err == nil {
		return a.Unmap().String()
	}
	return listen
}

// Forwards gives the forwards of a network, by their addresses. Errors: NotFound, Invalid.
func (d *Daemon) Forwards(ctx context.Context, name string) (map[string]db.Forward, error) {
	n, err := d.managed(ctx, name)
	return n.Forwards, err
}

// Forward gives one. The error is NotFound.
func (d *Daemon) Forward(ctx context.Context, name, listen string) (db.Forward, error) {
	all, err := d.Forwards(ctx, name)
	if err != nil {
		return db.Forward{}, err
	}
	f, ok := all[ForwardName(listen)]
	if !ok {
		return f, kiln.Errorf(kiln.NotFound, "network %q has no forward of %q%s; see: kiln network forward list %s", name,
			listen, kiln.DidYouMean(listen, slices.Collect(maps.Keys(all))), name)
	}
	return f, nil
}

// CreateForward adds a forward to a network. Errors: NotFound, Invalid, Conflict.
func (d *Daemon) CreateForward(ctx context.Context, name, listen string, f db.Forward) error {
	listen = ForwardName(listen)
	return d.editForward(ctx, "network-forward-created", name, listen, func(all map[string]db.Forward) error {
		if _, ok := all[listen]; ok {
			return kiln.Errorf(kiln.Conflict, "network %q has a forward of %s already", name, listen)
		}
		all[listen] = f
		return nil
	})
}

// UpdateForward replaces a forward by what change makes of it.
// Errors: NotFound, Invalid, Conflict, and change's.
func (d *Daemon) UpdateForward(ctx context.Context, name, listen string,
	change func(db.Forward) (db.Forward, error)) error {
	if _, err := d.Forward(ctx, name, listen); err != nil {
		return err
	}
	listen = ForwardName(listen)
	return d.editForward(ctx, "network-forward-updated", name, listen, func(all map[string]db.Forward) (err error) {
		all[listen], err = change(all[listen])
		return err
	})
}

// DeleteForward removes a forward. Errors: NotFound.
func (d *Daemon) DeleteForward(ctx context.Context, name, listen string) error {
	if _, err := d.Forward(ctx, name, listen); err != nil {
		return err
	}
	listen = ForwardName(listen)
	return d.editForward(ctx, "network-forward-deleted", name, listen, func(all map[string]db.Forward) error {
		delete(all, listen)
		return nil
	})
}

// editForward changes one forward of a network, in its row and in the kernel.
func (d *Daemon) editForward(ctx context.Context, action, name, listen string,
	f func(map[string]db.Forward) error) error {
	if _, err := d.managed(ctx, name); err != nil {
		return err
	}
	n := d.networks
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.up(ctx, name); err != nil { // which gives the network its subnet, too
		return err
	}
	var before map[string]db.Forward
	err := d.db.EditNetwork(ctx, name, func(r *db.Network) error {
		before = maps.Clone(r.Forwards)
		if r.Forwards == nil {
			r.Forwards = map[string]db.Forward{}
		}
		if err := f(r.Forwards); err != nil {
			return err
		}
		next, ok := r.Forwards[listen]
		if !ok {
			return nil
		}
		if err := kiln.CheckDescription(next.Description); err != nil {
			return err
		}
		return d.networks.checkForwards(ctx, *r, listen, next)
	})
	if err != nil {
		return err
	}
	if _, err := n.up(ctx, name); err != nil {
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, d.db.EditNetwork(ctx, name, func(r *db.Network) error { r.Forwards = before; return nil }))
		_, again := n.up(ctx, name)
		return errors.Join(err, again)
	}
	d.tell(ctx, action, networkURL(name)+"/forwards/"+listen, nil)
	return nil
}

// checkForwards says whether a network can have a forward, beside all others there are.
func (n *networks) checkForwards(ctx context.Context, r db.Network, listen string, f db.Forward) error {
	own, err := parseForward(n.d.plan(r), listen, f)
	if err != nil {
		return err
	}
	rows, err := n.d.db.Networks(ctx)
	if err != nil {
		return err
	}
	var list []network.Forward
	for _, o := range rows {
		if o.Name == r.Name {
			o.Forwards = maps.Clone(r.Forwards)
			delete(o.Forwards, listen)
		}
		list = append(list, n.forwardsOf(o)...)
	}
	return network.CheckForwards(append(list, own...))
}

// forwardsOf are what the rules of a network lead to its instances. What can't be read is
// left out.
func (n *networks) forwardsOf(r db.Network) []network.Forward {
	var list []network.Forward
	for _, px := range n.d.proxies.carried.Proxies() {
		if px.NAT && px.Network == r.Name {
			list = append(list, forwardOf(px))
		}
	}
	for _, listen := range slices.Sorted(maps.Keys(r.Forwards)) {
		if f, err := parseForward(n.d.plan(r), listen, r.Forwards[listen]); err == nil {
			list = append(list, f...)
		}
	}
	return list
}
