package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/proxy"
)

// proxies carry connections of instances, for package instance: by proxyd, or by the rules
// of a network.
type proxies struct {
	d       *Daemon
	carried proxy.Directory
}

// Open has the connections of a device carried from now on.
func (p *proxies) Open(ctx context.Context, i instance.Instance, device string, d proxy.Device, dir string) error {
	px := proxy.Proxy{Instance: i.Options[instance.UUIDKey], Name: device, Box: dir, Device: d}
	if !d.NAT {
		return p.carried.Open(ctx, px)
	}
	if err := p.place(ctx, i, &px); err != nil {
		return err
	}
	n := p.d.networks
	n.mu.Lock()
	defer n.mu.Unlock()
	rows, err := p.d.db.Networks(ctx)
	if err != nil {
		return err
	}
	var list []network.Forward
	for _, r := range rows {
		list = append(list, n.forwardsOf(r)...)
	}
	if err := network.CheckForwards(append(list, forwardOf(px))); err != nil {
		return err
	}
	if err := p.carried.Open(ctx, px); err != nil {
		return err
	}
	if _, err := n.up(ctx, px.Network); err != nil {
		return errors.Join(err, p.carried.Close(px.Instance, px.Name))
	}
	return nil
}

// place finds the network and the address of an instance that a proxy with NAT leads to.
func (p *proxies) place(ctx context.Context, i instance.Instance, px *proxy.Proxy) error {
	rows, err := p.d.db.Networks(ctx)
	if err != nil {
		return err
	}
	to := px.Connect.Host
	for _, r := range rows {
		leases, err := p.d.db.Leases(ctx, r.Name)
		if err != nil {
			return err
		}
		for _, l := range leases {
			a := l.IPv4
			if to.Is6() {
				a = l.IPv6
			}
			if l.Project == i.Project && l.Instance == i.Name && a.IsValid() && (a == to || to.IsUnspecified()) {
				px.Network, px.Connect.Host = r.Name, a
				return nil
			}
		}
	}
	if to.IsUnspecified() {
		return kiln.Errorf(kiln.Invalid, "nat needs an interface on a network of kiln's with an address of that version of "+
			"IP")
	}
	return kiln.Errorf(kiln.Invalid, "with nat, connect has an address that the instance has on a network of kiln's, or "+
		"0.0.0.0 or [::] for that; %s isn't one (see: kiln list %s)", to, i.Name)
}

// forwardOf is what a proxy with NAT is for its network.
func forwardOf(px proxy.Proxy) network.Forward {
	return network.Forward{For: fmt.Sprintf("the device %q of an instance", px.Name), Listen: px.Listen.Host,
		Protocol: px.Listen.Protocol, Ports: px.Listen.Ports, Target: px.Connect.Host, TargetPorts: px.Connect.Ports}
}

// Close ends that.
func (p *proxies) Close(ctx context.Context, i instance.Instance, device string) error {
	uuid := i.Options[instance.UUIDKey]
	for _, px := range p.carried.Proxies() {
		if px.Instance == uuid && px.Name == device {
			return p.close(ctx, px)
		}
	}
	return nil
}

func (p *proxies) close(ctx context.Context, px proxy.Proxy) error {
	err := p.carried.Close(px.Instance, px.Name)
	if !px.NAT || err != nil {
		return err
	}
	n := p.d.networks
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err = n.up(ctx, px.Network)
	if errors.Is(err, kiln.NotFound) {
		return nil // it is gone with its rules
	}
	return err
}

// settle forgets the proxies of instances that ended, and has a proxyd of this version carry
// the others: without any, none runs.
func (p *proxies) settle() {
	for _, px := range p.carried.Proxies() {
		init, _, err := box.Peek(px.Box)
		if err == nil {
			init.Close()
			continue
		}
		if err := p.carried.Close(px.Instance, px.Name); err != nil {
			p.d.cfg.Log.Warn("forget a proxy", "device", px.Name, "err", err)
		}
	}
	if err := p.carried.Ensure(); err != nil {
		p.d.cfg.Log.Error("start "+proxy.Program, "err", err)
	}
}

// watch keeps proxyd running, until the daemon ends.
func (p *proxies) watch() {
	p.carried.Watch(p.d.ctx, func(err error) { p.d.cfg.Log.Warn("start "+proxy.Program, "err", err) })
}
