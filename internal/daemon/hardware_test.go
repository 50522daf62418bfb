package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/instance"
)

// pluggable is a host with a USB port. What is plugged in has device numbers of this host's
// /dev/loop-control, which no container may use unasked.
type pluggable string

func (p pluggable) plug(t *testing.T) {
	t.Helper()
	files := map[string]string{"idVendor": "abcd", "idProduct": "0001", "busnum": "1", "devnum": "2",
		"uevent":             "MAJOR=10\nMINOR=237\nDEVNAME=bus/usb/001/002\nDEVTYPE=usb_device",
		"1-1:1.0/tty/uevent": "MAJOR=1\nMINOR=5\nDEVNAME=ttyUSB0"}
	for name, text := range files {
		path := filepath.Join(string(p), "sys/devices/pci/usb1/1-1", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"sys/bus/usb/devices/1-1": "../../../devices/pci/usb1/1-1",
		"sys/dev/char/10:237": "../../devices/pci/usb1/1-1", "sys/dev/char/1:5": "../../devices/pci/usb1/1-1/1-1:1.0/tty",
		"sys/devices/pci/usb1/1-1/subsystem":             "../../../../bus/usb",
		"sys/devices/pci/usb1/1-1/1-1:1.0/tty/subsystem": "../../tty"} {
		path := filepath.Join(string(p), link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
}

func (p pluggable) unplug(t *testing.T) {
	t.Helper()
	for _, path := range []string{"sys/bus/usb/devices/1-1", "sys/dev/char/10:237", "sys/dev/char/1:5",
		"sys/devices/pci/usb1/1-1"} {
		if err := os.RemoveAll(filepath.Join(string(p), path)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHardware plugs a USB device in and out while an instance runs that is to have it, and
// what a driver makes of it.
func TestHardware(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	host := pluggable(t.TempDir())
	d.instances.Hardware = hardware.Root(host)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	set := func(devices map[string]map[string]string) error {
		_, err := d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
			i.Devices = devices
			return i.Config, nil
		})
		return err
	}
	changed := func() {
		t.Helper()
		if err := d.instances.HardwareChanged(ctx); err != nil {
			t.Fatal(err)
		}
	}
	has := func(when string, want bool) {
		t.Helper()
		code, out := run(t, d, "c1", "set -e; : </dev/bus/usb/001/002; test $(stat -c %u:%a /dev/bus/usb/001/002) = 5:600; "+
			"head -c 1 /dev/ttyUSB0 >/dev/null")
		if _, left := run(t, d, "c1", "find /dev/bus /dev/ttyUSB0 -type c"); (code == 0) != want ||
			!want && strings.Contains(left, "002\n") {
			t.Fatalf("%s: %d %s, %s", when, code, out, left)
		}
	}
	missing := map[string]string{"type": "usb", "vendorid": "abcd", "required": "true"}
	if err := set(map[string]map[string]string{"stick": missing}); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("a required device that isn't there: %v", err)
	}
	devices := map[string]map[string]string{
		"stick": {"type": "usb", "vendorid": "abcd", "uid": "5", "mode": "0600"},
		"modem": {"type": "unix-hotplug", "vendorid": "abcd", "productid": "0001"},
		"other": {"type": "usb", "vendorid": "abcd", "productid": "0002"}}
	if err := set(devices); err != nil {
		t.Fatal(err)
	}
	has("nothing is there", false)
	host.plug(t)
	has("nobody was told", false)
	changed()
	has("plugged in", true)
	changed()
	has("told twice", true)
	host.unplug(t)
	changed()
	has("unplugged", false)
	host.plug(t)
	changed()
	has("plugged in again", true)

	// Of one that was there at a start a reboot brings nothing back that has gone.
	if err := set(nil); err != nil {
		t.Fatal(err)
	}
	has("removed", false)
	if err := set(devices); err != nil {
		t.Fatal(err)
	}
	has("added", true)
	reboot := func() {
		t.Helper()
		l, err := d.InstanceState(ctx, "c1")
		if err != nil {
			t.Fatal(err)
		}
		run(t, d, "c1", "reboot -f >/dev/null 2>&1 &")
		eventually(t, func() bool {
			now, err := d.InstanceState(ctx, "c1")
			return err == nil && now.PID != 0 && now.PID != l.PID
		})
		changed() // waits for what a reboot does
	}
	reboot()
	has("rebooted", true)
	o, err := d.SetInstanceState(ctx, "c1", "restart", 0, true)
	wait(t, o, err)
	has("started with it", true)
	host.unplug(t)
	reboot()
	has("rebooted without", false)
	nodes, err := filepath.Glob(filepath.Join(d.cfg.Dir, "*/*/devices/nodes.*"))
	if err != nil || len(nodes) > 0 {
		t.Errorf("left: %v, %v", nodes, err)
	}
}
