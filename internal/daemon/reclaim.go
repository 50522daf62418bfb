package daemon

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/project"
)

// unknown gives the addresses on a network that containers have which run and have no row:
// nobody else gets them, and they are served as they were.
func (n *networks) unknown(on network.Network) []db.Lease {
	var list []db.Lease
	for _, nic := range n.d.instances.UnknownNics() {
		l := db.Lease{Project: cmp.Or(nic.Project, project.Default), Instance: cmp.Or(nic.Instance, madeUpFor(nic.UUID)),
			Device: nic.Device, MAC: nic.MAC}
		if n.given(on, nic, &l) {
			list = append(list, l)
		}
	}
	return list
}

// given sets the addresses on a network that an interface was given: by what it was started
// with, or what is served to it. It reports whether there are some.
func (n *networks) given(on network.Network, nic instance.RunningNic, l *db.Lease) bool {
	if nic.MAC == "" {
		return false
	}
	if a := nic.IPv4.Addr(); on.IPv4.IsValid() && a.IsValid() && on.IPv4.Contains(a) {
		l.IPv4 = a
	}
	if a := nic.IPv6.Addr(); on.IPv6.IsValid() && a.IsValid() && on.IPv6.Contains(a) {
		l.IPv6 = a
	}
	if l.IPv4.IsValid() || l.IPv6.IsValid() {
		return true
	}
	for _, s := range n.served.Networks() {
		for _, h := range s.Hosts {
			if s.Name == on.Name && h.MAC == nic.MAC {
				l.IPv4, l.IPv6 = h.IPv4, h.IPv6
				return true
			}
		}
	}
	return false
}

// reclaim gives the instances that run the addresses in rows again that they have, as after
// their rows were made anew: no record has them. Who has a row of an address keeps it.
func (n *networks) reclaim(ctx context.Context, rows []db.Network) {
	nics, err := n.d.instances.RunningNics(ctx)
	if err != nil {
		n.d.cfg.Log.Error("look at the addresses of what runs", "err", err)
		return
	}
	for _, r := range rows {
		if err := n.reclaimOn(ctx, n.d.plan(r), nics); err != nil {
			n.d.cfg.Log.Error("look at the addresses on a network", "network", r.Name, "err", err)
		}
	}
}

// reclaimOn is reclaim for one network.
func (n *networks) reclaimOn(ctx context.Context, on network.Network, nics []instance.RunningNic) error {
	has, err := n.d.db.Leases(ctx, on.Name)
	if err != nil {
		return err
	}
	for _, nic := range nics {
		l := db.Lease{Project: nic.Project, Instance: nic.Instance, Device: nic.Device, MAC: nic.MAC}
		if nic.Config["network"] != on.Name || slices.ContainsFunc(has, func(o db.Lease) bool {
			return o.Project == l.Project && o.Instance == l.Instance && o.Device == l.Device
		}) || !n.given(on, nic, &l) {
			continue
		}
		_, err := n.d.db.SetLease(project.In(ctx, project.Alone(l.Project)), on.Name, l, func(others []db.Lease,
			to *db.Lease) error {
			return choose(on, append(others, n.unknown(on)...), to, fixedTo(l))
		})
		if err != nil {
			n.d.cfg.Log.Warn("write down the addresses of an instance that runs", "instance", l.Instance, "device", l.Device,
				"err", err)
		}
	}
	return nil
}

// fixedTo asks for the addresses of a lease.
func fixedTo(l db.Lease) map[string]string {
	d := map[string]string{}
	for key, a := range map[string]netip.Addr{network.IPv4Key: l.IPv4, network.IPv6Key: l.IPv6} {
		if a.IsValid() {
			d[key] = a.String()
		}
	}
	return d
}
