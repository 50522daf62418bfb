package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/instance"
)

// TestHardwareAddresses follows the hardware address of an interface: it stays through a rebuild, an export
// and import, and a move, which names it; no two instances have the same one.
func TestHardwareAddresses(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	const key = "volatile.eth0.hwaddr"
	nics := map[string]map[string]string{"eth0": {"type": "nic", "network": defaultNetwork},
		"eth1": {"type": "nic", "network": defaultNetwork, "hwaddr": "00:16:3e:00:00:09"}}
	create := func(name string, options map[string]string) error {
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "none"}, Config: instance.Config{
			Options: options, Devices: nics}})
		if err != nil {
			return err
		}
		return o.Wait(ctx).Err
	}
	address := func(name string) string {
		t.Helper()
		i, err := d.Instance(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if i.Options["volatile.eth1.hwaddr"] != "" {
			t.Errorf("%s keeps an address that its device has: %v", name, i.Options)
		}
		if used := instance.Address(i.Options, "eth0", nics["eth0"]).String(); used != i.Options[key] {
			t.Errorf("%s has %s and keeps %s", name, used, i.Options[key])
		}
		return i.Options[key]
	}
	if err := create("c1", nil); err != nil {
		t.Fatal(err)
	}
	mac := address("c1")

	o, err := d.RebuildInstance(ctx, "c1", Source{Type: "none"}, false)
	wait(t, o, err)
	if now := address("c1"); now != mac {
		t.Errorf("a rebuild makes %s of %s", now, mac)
	}

	whole := backedUp(t, d, "c1", "none")
	restore := func(name string) string {
		t.Helper()
		s := d.RestoreBackup(ctx, CreateSpec{Name: name}, bytes.NewReader(whole)).Wait(ctx)
		if s.Err != nil {
			t.Fatal(s.Err)
		}
		return fmt.Sprint(s.Metadata["warning"])
	}
	said := restore("c2")
	if beside := address("c2"); beside == mac || !strings.Contains(said, mac+` is that of instance "c1"`) {
		t.Errorf("beside the original: %s, %s", beside, said)
	}
	o, err = d.DeleteInstance(ctx, "c1")
	wait(t, o, err)
	said = restore("c1")
	if back := address("c1"); back != mac || strings.Contains(said, mac) {
		t.Errorf("after it was deleted: %s of %s, %s", back, mac, said)
	}

	// A move says it in its request, and a copy doesn't.
	for name, is := range map[string]struct{ given, want string }{
		"moved": {"00:16:3e:00:00:01", "00:16:3e:00:00:01"}, "copied": {"", ""}, "taken": {strings.ToUpper(mac), ""},
		"a device's": {"00:16:3e:00:00:09", ""}, "of a group": {"01:16:3e:00:00:01", ""}, "none": {"x", ""},
	} {
		name = strings.NewReplacer(" ", "-", "'", "").Replace(name)
		if err := create(name, map[string]string{key: is.given, "volatile.eth5.hwaddr": "00:16:3e:00:00:05"}); err != nil {
			t.Fatal(err)
		}
		got := address(name)
		if is.want != "" && got != is.want || is.want == "" && strings.EqualFold(got, is.given) || got == mac {
			t.Errorf("%s: %s", name, got)
		}
		if i, err := d.Instance(ctx, name); err != nil || i.Options["volatile.eth5.hwaddr"] != "" {
			t.Errorf("%s keeps what it has no device for: %v, %v", name, i.Options, err)
		}
	}

	change := func(devices map[string]map[string]string) map[string]string {
		t.Helper()
		_, uerr := d.UpdateInstance(ctx, "moved", func(i instance.Instance) (instance.Config, error) {
			i.Devices = devices
			return i.Config, nil
		})
		i, err := d.Instance(ctx, "moved")
		if err := errors.Join(uerr, err); err != nil {
			t.Fatal(err)
		}
		return i.Options
	}
	none := map[string]string{"type": "none"}
	if got := change(map[string]map[string]string{"eth0": none, "eth3": nics["eth0"]}); got[key] != "" ||
		got["volatile.eth3.hwaddr"] == "" {
		t.Errorf("with another device: %v", got)
	}
}
