package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln/api"
)

// TestLoads counts what began in between, or again, from nothing, and puts the busiest
// first.
func TestLoads(t *testing.T) {
	state := func(pid, cpu, received int64) api.InstanceState {
		return api.InstanceState{PID: pid, CPU: api.InstanceStateCPU{Usage: cpu}, Processes: 3,
			Memory: api.InstanceStateMemory{Usage: 100}, Network: map[string]api.InstanceStateNetwork{
				"eth0": {Counters: api.InstanceStateNetworkCounters{BytesReceived: received}},
				"lo":   {Counters: api.InstanceStateNetworkCounters{BytesReceived: 1 << 40}}}}
	}
	begin := time.Unix(1000, 0)
	got := loads(
		glance{begin, map[string]api.InstanceState{"idle": state(1, 5e9, 50), "busy": state(2, 5e9, 50),
			"rebooted": state(3, 90e9, 5000), "gone": state(4, 1, 1)}},
		glance{begin.Add(2 * time.Second), map[string]api.InstanceState{"idle": state(1, 5e9, 50),
			"busy": state(2, 8e9, 2050), "rebooted": state(5, 1e9, 20), "new": state(6, 5e8, 0)}})
	load := func(name string, cpu float64, received int64) Load {
		return Load{Name: name, CPU: cpu, Memory: 100, Processes: 3, Received: received}
	}
	want := []Load{load("busy", 150, 1000), load("rebooted", 50, 10), load("new", 25, 0), load("idle", 0, 0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
