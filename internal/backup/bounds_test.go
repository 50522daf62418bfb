package backup

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/foreign"
)

// TestIndexIsBounded refuses an index of many values before they are made, and reads one
// with many snapshots.
func TestIndexIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"list":  "name: c\nx: [" + strings.Repeat("a,", 8_000_000) + "a]\n",
		"items": "name: c\nx:\n" + strings.Repeat("-\n", 8_000_000),
		"alias": "name: c\nx: &x " + strings.Repeat("x", 2<<20) + "\ny: [" + strings.Repeat("*x ,", 300) + "]\n",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := parseIndex([]byte(text))
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, kiln.TooLarge) || took > 100<<20 {
			t.Errorf("%s took %d MB: %v", name, took>>20, err)
		}
	}
	one := kiln.InstanceState{Name: "c1", Architecture: "x86_64", Profiles: []string{"default"}, CreatedAt: time.Now(),
		Config: map[string]string{"image.os": "debian", "image.release": "13", "image.description": "Debian 13 (a, b, c)",
			"limits.cpu": "2", "limits.memory": "1GiB", "user.x": "- a: b\n- c: [d, e]\n"},
		Devices: map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"},
			"eth0": {"type": "nic", "network": "lxdbr0", "name": "eth0"}}}
	const share, most = 6, 1_500 // all of the bounds are for more than fit, if LXD wrote it
	many := kiln.Transfer{InstanceState: one}
	for i := range most {
		one.Name = fmt.Sprintf("snap%d", i)
		many.Snapshots = append(many.Snapshots, one)
	}
	b, _, err := encode(many, func(s kiln.InstanceState) (map[string]string, map[string]map[string]string) {
		return s.Config, s.Devices
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := parseIndex(b)
	if err != nil || len(i.Config.Snapshots) != most || len(b) < maxIndex*3/4/share {
		t.Errorf("%d bytes: %v, %d snapshots", len(b), err, len(i.Snapshots))
	}
	limit := foreign.Limit{Bytes: maxIndex / share, Values: maxIndexValues / share}
	if err := foreign.YAML(b, limit, func(*yaml.Node) error { return nil }); err != nil {
		t.Errorf("a share of %d bytes: %v", len(b), err)
	}
}
