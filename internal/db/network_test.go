package db

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
)

func TestNetworks(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln.db"))
	ctx := t.Context()
	for _, err := range []error{
		d.CreateNetwork(ctx, Network{Name: "n1", Config: map[string]string{"ipv4.address": "auto"}}),
		d.CreateNetwork(ctx, Network{Name: "n2"}),
		d.CreateInstance(ctx, Instance{Name: "c1", Type: "container"}),
		d.CreateInstance(ctx, Instance{Name: "c2", Type: "container"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.CreateNetwork(ctx, Network{Name: "n1"}); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("twice: %v", err)
	}
	if err := d.RenameNetwork(ctx, "n1", "n2"); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("a name that is taken: %v", err)
	}
	four, six := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("fd42::2")
	give := func(network, instance string) (Lease, error) {
		return d.SetLease(ctx, network, Lease{Instance: instance, Device: "eth0", MAC: "02:00:00:00:00:01"},
			func(others []Lease, l *Lease) error {
				l.IPv4, l.IPv6 = four, six
				return nil
			})
	}
	if l, err := give("n1", "c1"); err != nil || l.IPv4 != four {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := give("n1", "c2"); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("an address of somebody else: %v", err)
	}
	if _, err := give("none", "c2"); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("on a network that is none: %v", err)
	}
	if err := d.RenameInstance(ctx, "c1", "web"); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Leases(ctx, "n1"); err != nil || len(list) != 1 || list[0].Instance != "web" || list[0].IPv6 != six {
		t.Errorf("leases are %+v, %v", list, err)
	}
	if _, err := give("n2", "web"); err != nil { // the device is on another network now
		t.Error(err)
	}
	if list, err := d.Leases(ctx, "n1"); err != nil || len(list) != 0 {
		t.Errorf("leases are %+v, %v", list, err)
	}
	if removed, err := d.KeepLeases(ctx, "web", map[string]bool{"eth0": true}); err != nil || removed {
		t.Errorf("removed %v, %v", removed, err)
	}
	if err := d.DeleteInstance(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Leases(ctx, "n2"); err != nil || len(list) != 0 {
		t.Errorf("leases of what is gone: %+v, %v", list, err)
	}
	if _, err := d.write.Exec(`UPDATE networks SET config = '{' WHERE name = 'n1'`); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Networks(ctx); err != nil || len(list) != 2 || list[0].Damage == "" {
		t.Errorf("a damaged row: %+v, %v", list, err)
	}
	if err := d.EditNetwork(ctx, "n1", func(*Network) error { return nil }); kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("a change of a damaged row: %v", err)
	}
	if err := d.DeleteNetwork(ctx, "n1"); err != nil {
		t.Error(err)
	}
}
