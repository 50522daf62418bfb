package instance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/volume"
)

// oneAddress is a host whose networks have an address for one interface.
type oneAddress struct {
	has  []string
	used int // how often a network is in use
}

func (*oneAddress) Check(context.Context, map[string]string) error        { return nil }
func (*oneAddress) Forget(context.Context, string, map[string]bool) error { return nil }
func (n *oneAddress) Connect(_ context.Context, _ Instance, device string, _ map[string]string) (box.Nic,
	Resolver, error) {
	if len(n.has) > 0 {
		return box.Nic{}, Resolver{}, kiln.Errorf(kiln.Conflict, "no address is free")
	}
	n.has = append(n.has, "on-"+device)
	return box.Nic{HostName: "on-" + device}, Resolver{}, nil
}

func (n *oneAddress) Use(name string) (func(), error) {
	if name == "gone" {
		return nil, kiln.Errorf(kiln.NotFound, "there is no network %q", name)
	}
	n.used++
	return func() { n.used-- }, nil
}

func (n *oneAddress) Disconnect(host string) error {
	n.has = slices.DeleteFunc(n.has, func(has string) bool { return has == host })
	return nil
}

// TestConnectFails has the second interface of an instance get no address: nothing bounds the
// first one any more once the start has failed.
func TestConnectFails(t *testing.T) {
	nets := &oneAddress{}
	s := &Set{Networks: nets}
	i := Instance{Name: "c1", ExpandedDevices: map[string]map[string]string{
		"eth0": {"type": "nic", "network": "n", "limits.max": "10Mbit"}, "eth1": {"type": "nic", "network": "n"}}}
	nics, _, err := s.connect(t.Context(), i)
	if !errors.Is(err, kiln.Conflict) || len(nets.has) != 1 {
		t.Fatalf("%v, %v", nets.has, err)
	}
	if err := s.disconnect(i, nics); err != nil || len(nets.has) > 0 {
		t.Errorf("left: %v, %v", nets.has, err)
	}
}

// TestUseFails has something missing of what devices name: the rest isn't kept for them.
func TestUseFails(t *testing.T) {
	s, _, p := set(t)
	nets := &oneAddress{}
	s.Networks = nets
	data := volume.CustomName{In: "default", Name: "data"}
	if err := p.CreateCustom(data, volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	for network, source := range map[string]string{"gone": t.TempDir(), "there": t.TempDir() + "/gone"} {
		_, err := s.Use(t.Context(), map[string]map[string]string{
			"data": {"type": "disk", "pool": "default", "source": "data", "path": "/data"},
			"eth0": {"type": "nic", "network": network},
			"host": {"type": "disk", "source": source, "path": "/host"}})
		if err == nil || !strings.Contains(err.Error(), "gone") || nets.used != 0 {
			t.Errorf("%v; networks in use: %d", err, nets.used)
		}
		renamed := volume.CustomName{In: "default", Name: "renamed"}
		if err := errors.Join(p.RenameCustom(data, renamed.Name, nil), p.RenameCustom(renamed, data.Name, nil)); err != nil {
			t.Error(err)
		}
	}
}
