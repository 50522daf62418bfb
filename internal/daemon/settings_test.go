package daemon

import "testing"

// TestLongTimes refuses times that would wrap around when they are calculated with.
func TestLongTimes(t *testing.T) {
	known := settings()
	for value, ok := range map[string]bool{"0": true, "6": true, "36500": true, "5124096": false,
		"99999999999999999999": false, "-1": false} {
		for _, key := range []string{updateInterval, cacheExpiry} {
			if err := known[key].check(value); (err == nil) != ok {
				t.Errorf("%s=%s: %v", key, value, err)
			}
		}
	}
}
