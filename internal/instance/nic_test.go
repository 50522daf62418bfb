package instance

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// oneAddress is a host whose networks have an address for one interface.
type oneAddress struct{ has []string }

func (*oneAddress) Check(context.Context, map[string]string) error        { return nil }
func (*oneAddress) Use(string) (func(), error)                            { return func() {}, nil }
func (*oneAddress) Forget(context.Context, string, map[string]bool) error { return nil }
func (n *oneAddress) Connect(_ context.Context, _ Instance, device string, _ map[string]string) (box.Nic,
	Resolver, error) {
	if len(n.has) > 0 {
		return box.Nic{}, Resolver{}, kiln.Errorf(kiln.Conflict, "no address is free")
	}
	n.has = append(n.has, "on-"+device)
	return box.Nic{HostName: "on-" + device}, Resolver{}, nil
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
