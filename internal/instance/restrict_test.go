package instance

import "testing"

// TestRuledNetworks lists several networks that a project may use.
func TestRuledNetworks(t *testing.T) {
	rules := map[string]string{"restricted": "true", "restricted.networks.access": "one, two"}
	for network, bad := range map[string]bool{"one": false, "two": false, "three": true, "one, two": true, "o": true} {
		nic := map[string]map[string]string{"eth0": {"type": "nic", "network": network}}
		if list := Forbids("p", rules, nil, nic, false); len(list) > 0 != bad {
			t.Errorf("%q: %q", network, list)
		}
	}
}
