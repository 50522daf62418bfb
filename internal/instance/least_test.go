package instance

import (
	"errors"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestLeastLimits refuses limits of disks below the least when they are set anew. Those that are
// kept already are raised to it, which is said.
func TestLeastLimits(t *testing.T) {
	disk := func(limits ...string) map[string]map[string]string {
		d := map[string]string{"type": "disk", "path": "/", "pool": "default"}
		for _, l := range limits {
			key, value, _ := strings.Cut(l, "=")
			d[key] = value
		}
		return map[string]map[string]string{"root": d}
	}
	for _, bad := range []string{"limits.read=63KiB", "limits.max=9iops", "limits.write=1"} {
		if err := CheckAnew(nil, disk(bad)); !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s anew: %v", bad, err)
		}
		if err := CheckAnew(disk(bad), disk(bad)); err != nil {
			t.Errorf("%s kept: %v", bad, err)
		}
		if err := CheckAnew(disk(bad), disk(bad, "readonly=false")); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s in a device that is changed: %v", bad, err)
		}
		if err := CheckDevices(disk(bad)); err != nil {
			t.Errorf("%s, whoever has it: %v", bad, err)
		}
		if said := raisedLimits(disk(bad)); len(said) != 1 || !strings.Contains(said[0], bad) {
			t.Errorf("%s: %q", bad, said)
		}
	}
	good := disk("limits.read=64KiB", "limits.write=10iops")
	if err := CheckAnew(nil, good); err != nil || len(raisedLimits(good)) != 0 {
		t.Error(err, raisedLimits(good))
	}
	if err := CheckAnew(nil, map[string]map[string]string{"eth0": {"type": "nic", "limits.max": "1"}}); err != nil {
		t.Error("of no disk:", err)
	}
	read, write, err := traffic(disk("limits.read=1", "limits.write=3iops")["root"])
	if err != nil || read != (rate{bytes: leastBytes}) || write != (rate{operations: leastOperations}) {
		t.Error(read, write, err)
	}
}

// TestSlowProcessor refuses a restricted client allowances by which a container stands still for
// long, or gets on by little.
func TestSlowProcessor(t *testing.T) {
	for v, may := range map[string]bool{"": true, "5%": true, "4%": false, "5ms/100ms": true, "4ms/100ms": false,
		"1ms/1000ms": false, "1000ms/1000ms": false, "50ms/101ms": false, "25ms/50ms": true, "nonsense": true} {
		err := checkSlowProcessor(map[string]string{"limits.cpu.allowance": v})
		if may && err != nil || !may && (!errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), v)) {
			t.Errorf("%s: %v", v, err)
		}
	}
}
