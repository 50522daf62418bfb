package daemon

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
)

// TestNetworksAreNew: a daemon of before there were networks gets none unasked, and its
// instances stay as they are.
func TestNetworksAreNew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	old, err := db.Open(t.Context(), filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	root := map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"}}
	if err := old.CreateProfile(t.Context(), db.Profile{Name: "default", Devices: root}); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	defer end(t, d)
	p, err := d.Profile(t.Context(), "default")
	if err != nil || len(p.Devices) != 1 {
		t.Errorf("the profile is %+v, %v", p, err)
	}
	if list, err := d.db.Networks(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("networks are %+v, %v", list, err)
	}
}

// TestDefaultNetwork: two daemons of a host have a network of the same name, and bridges
// and subnets that don't meet.
func TestDefaultNetwork(t *testing.T) {
	bridges, subnets := map[string]bool{}, map[string]bool{}
	for range 2 {
		d := fresh(t)
		d.networks.mu.Lock()
		n, err := d.networks.up(t.Context(), defaultNetwork)
		d.networks.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.networks.down(t.Context(), defaultNetwork); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		})
		if bridges[n.Bridge] || subnets[n.IPv4.String()] {
			t.Errorf("%+v is another daemon's as well", n)
		}
		bridges[n.Bridge], subnets[n.IPv4.String()] = true, true
		if !d.networks.served.Running() {
			t.Error("nothing serves it")
		}
		t.Cleanup(func() {
			if err := d.networks.served.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNicHostAccess: an interface on a network is nothing of the host's; one on a bridge
// of the host is.
func TestNicHostAccess(t *testing.T) {
	restricted := instance.Restricted(t.Context())
	d := fresh(t)
	for _, c := range []struct {
		nic  map[string]string
		want kiln.Kind
	}{
		{map[string]string{"type": "nic", "network": defaultNetwork, "name": "eth5"}, ""},
		{map[string]string{"type": "nic", "nictype": "bridged", "parent": "eth0"}, kiln.Denied},
		{map[string]string{"type": "nic", "network": defaultNetwork, "parent": "eth0"}, kiln.Denied},
		{map[string]string{"type": "nic", "network": defaultNetwork, "host_name": "vnet0"}, kiln.Denied},
	} {
		err := d.instances.CheckAccess(restricted, instance.Config{Devices: map[string]map[string]string{"x": c.nic}})
		if c.want == "" && err != nil || c.want != "" && kiln.KindOf(err) != c.want {
			t.Errorf("%v: %v", c.nic, err)
		}
	}
}

// TestNetworkComesBack: after the host was started anew, a network that was needed has
// its bridge, its subnet and somebody who serves it again.
func TestNetworkComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	d.networks.mu.Lock()
	before, err := d.networks.up(t.Context(), defaultNetwork)
	d.networks.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.networks.served.Stop(), before.Down(d.networks.owner)); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	defer func() {
		if err := errors.Join(d.networks.down(t.Context(), defaultNetwork), d.networks.served.Stop()); err != nil {
			t.Error(err)
		}
	}()
	var row db.Network
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if row, err = d.db.Network(t.Context(), defaultNetwork); err != nil {
			t.Fatal(err)
		}
		if d.plan(row).Owns(d.networks.owner) && d.networks.served.Running() {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("the network is %+v, served: %v", row, d.networks.served.Running())
		}
	}
	if now := d.plan(row); now.IPv4 != before.IPv4 || now.IPv6 != before.IPv6 {
		t.Errorf("the subnets were %v and %v, and are %v and %v", before.IPv4, before.IPv6, now.IPv4, now.IPv6)
	}
}

// TestFirewallLoadedAnew: rules that another firewall needs are there as soon as it is, and
// go with the network.
func TestFirewallLoadedAnew(t *testing.T) {
	const rules = `table ip fw {
	chain DOCKER-USER { }
	chain forward { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}`
	nft := func(input string, args ...string) string {
		cmd := exec.Command("nft", args...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("nft: %v: %s", err, out)
		}
		return string(out)
	}
	d := fresh(t)
	d.networks.mu.Lock()
	n, err := d.networks.up(t.Context(), defaultNetwork)
	d.networks.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.networks.served.Stop(); err != nil {
			t.Error(err)
		}
	}()
	defer nft("", "delete", "table", "ip", "fw")
	for range 2 {
		nft(rules, "-f", "-")
		for begin := time.Now(); !strings.Contains(nft("", "list", "chain", "ip", "fw", "DOCKER-USER"), n.Bridge); {
			if time.Sleep(10 * time.Millisecond); time.Since(begin) > time.Minute {
				t.Fatal("the firewall lets nothing through")
			}
		}
		nft("", "flush", "chain", "ip", "fw", "DOCKER-USER")
	}
	if err := d.networks.down(t.Context(), defaultNetwork); err != nil {
		t.Error(err)
	}
	if list := nft("", "list", "table", "ip", "fw"); strings.Contains(list, n.Bridge) {
		t.Errorf("left: %s", list)
	}
}

// TestNetworkMoves: a daemon whose directory was moved goes on with its bridge, a copy of
// the directory has nothing of it and says what is in the way, and a host that goes down
// keeps no bridge without instances.
func TestNetworkMoves(t *testing.T) {
	up := func(d *Daemon) (network.Network, error) {
		d.networks.mu.Lock()
		defer d.networks.mu.Unlock()
		return d.networks.up(t.Context(), defaultNetwork)
	}
	from, to, third := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b"), filepath.Join(t.TempDir(), "c")
	d := open(t, from)
	before, err := up(d)
	if err := errors.Join(err, d.Close(), os.Rename(from, to)); err != nil {
		t.Fatal(err)
	}
	end(t, open(t, to))
	if err := os.CopyFS(third, os.DirFS(to)); err != nil {
		t.Fatal(err)
	}
	d = open(t, to)
	if now, err := up(d); err != nil || now.Bridge != before.Bridge || now.IPv4 != before.IPv4 {
		t.Errorf("moved, the network was %+v, and is %+v, %v", before, now, err)
	}
	other := open(t, third)
	if now, err := up(other); !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), before.Bridge) {
		t.Errorf("the network of a copy is %+v, %v", now, err)
	}
	end(t, other) // which would take the bridge's name when it is free
	if err := errors.Join(d.Shutdown(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := network.Look(before.Bridge); !errors.Is(err, kiln.NotFound) {
		t.Errorf("the bridge is there: %v", err)
	}
	if d.networks.served.Running() {
		t.Error("it is served")
	}
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil ||
		strings.Contains(string(out), "kiln_"+before.Bridge) {
		t.Errorf("rules are left: %s, %v", out, err)
	}
}

// TestNetworkMarkBefore: bridges of a daemon that marked them by its path are its own
// still, and an address that a restored database doesn't know stays.
func TestNetworkMarkBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	old := network.Plan(defaultNetwork, map[string]string{"ipv4.address": "10.97.3.1/24", "ipv6.address": "fd42:9::1/64"})
	var err error
	if old.Bridge, err = old.FreeInterface(dir); err != nil {
		t.Fatal(err)
	}
	if err := old.Up(dir); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	defer end(t, d)
	d.networks.mu.Lock()
	now, uerr := d.networks.up(t.Context(), defaultNetwork)
	err = errors.Join(uerr, d.networks.down(t.Context(), defaultNetwork), d.networks.served.Stop())
	d.networks.mu.Unlock()
	if err != nil || now.Bridge != old.Bridge || now.IPv4 != old.IPv4 || now.IPv6 != old.IPv6 {
		t.Errorf("the network was %+v, and is %+v, %v", old, now, err)
	}
}
