package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestNetworkIsUsedOrDeleted: no network is deleted or renamed while somebody is about to
// name it, and nobody names one that is about to go.
func TestNetworkIsUsedOrDeleted(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	none := map[string]string{"ipv4.address": "none", "ipv6.address": "none"}
	addNetwork := func() {
		t.Helper()
		if err := d.db.CreateNetwork(ctx, db.Network{Name: "nv", Config: none}); err != nil {
			t.Fatal(err)
		}
	}
	addNetwork()
	nics := map[string]map[string]string{"v": {"type": "nic", "network": "nv", "name": "eth7"}}
	create := func(name string, devices map[string]map[string]string) error {
		spec := CreateSpec{Name: name, Source: Source{Type: "none"}}
		spec.Config.Devices = devices
		o, err := d.CreateInstance(ctx, spec)
		if err == nil {
			err = o.Wait(ctx).Err
		}
		return err
	}
	if err := create("c", nil); err != nil {
		t.Fatal(err)
	}
	attach := func(devices map[string]map[string]string) error {
		_, err := d.UpdateInstance(ctx, "c", func(i instance.Instance) (instance.Config, error) {
			i.Config.Devices = devices
			return i.Config, nil
		})
		return err
	}
	if err := d.db.EditNetwork(ctx, "nv", func(n *db.Network) error { n.Bridge = "nvbr"; return nil }); err != nil {
		t.Fatal(err)
	}
	release, err := instance.UseNetworks(d.networks, map[string]map[string]string{"v": {"type": "nic",
		"nictype": "bridged", "parent": "nvbr"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteNetwork(ctx, "nv"); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("a network whose bridge is taken into use is deleted: %v", err)
	}
	release()
	if err := d.db.EditNetwork(ctx, "nv", func(n *db.Network) error { n.Bridge = ""; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(create("m", nics), d.CreateProject(ctx, db.Project{Name: "p",
		Config: map[string]string{"features.profiles": "false"}})); err != nil {
		t.Fatal(err)
	}
	leave, err := d.networks.use("nv", true)
	if err != nil {
		t.Fatal(err)
	}
	o, err := d.MoveInstance(ctx, "m", "p", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Wait(ctx).Err; kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("an instance moves with a network that is being deleted: %v", err)
	}
	for who, err := range map[string]error{
		"an instance":     attach(nics),
		"a new instance":  create("new", nics),
		"a new profile":   d.CreateProfile(ctx, db.Profile{Name: "new", Devices: nics}),
		"another profile": addToDefault(ctx, d, nics),
		"its new name":    d.RenameNetwork(ctx, "nv", "nw"),
	} {
		if kiln.KindOf(err) != kiln.Conflict {
			t.Errorf("%s takes a network that is being deleted: %v", who, err)
		}
	}
	leave()
	o, err = d.DeleteInstance(ctx, "m")
	wait(t, o, err)
	leave, err = d.networks.Use("nv")
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"deleted": d.DeleteNetwork(ctx, "nv"), "renamed": d.RenameNetwork(ctx, "nv", "nw"),
	} {
		if kiln.KindOf(err) != kiln.Conflict {
			t.Errorf("a network that is taken into use is %s: %v", what, err)
		}
	}
	leave()
	for n := range 30 {
		var deleted, attached error
		var wg sync.WaitGroup
		wg.Go(func() { deleted = d.DeleteNetwork(ctx, "nv") })
		wg.Go(func() { attached = attach(nics) })
		wg.Wait()
		if deleted == nil && attached == nil {
			t.Fatalf("%d: a network was deleted, and an instance was given it", n)
		}
		if err := attach(nil); err != nil {
			t.Fatal(err)
		}
		if deleted == nil {
			addNetwork()
		}
	}
	if err := d.DeleteNetwork(ctx, "nv"); err != nil || len(d.networks.using) != 0 {
		t.Error(err, fmt.Sprint(d.networks.using))
	}
}

func addToDefault(ctx context.Context, d *Daemon, devices map[string]map[string]string) error {
	_, err := d.UpdateProfile(ctx, "default", func(p db.Profile) (db.Profile, error) {
		p.Devices = maps.Clone(p.Devices)
		maps.Copy(p.Devices, devices)
		return p, nil
	})
	return err
}
