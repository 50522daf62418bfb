package daemon

import (
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestLongTimes refuses times that would wrap around when they are calculated with.
func TestLongTimes(t *testing.T) {
	for value, ok := range map[string]bool{"0": true, "6": true, "36500": true, "5124096": false,
		"99999999999999999999": false, "-1": false} {
		for _, key := range []string{updateInterval, cacheExpiry} {
			k, _ := serverKey(key)
			if err := k.Check(value); (err == nil) != ok {
				t.Errorf("%s=%s: %v", key, value, err)
			}
		}
	}
}

// TestForeignSettings refuses what the peers have with the reason, and takes nothing.
func TestForeignSettings(t *testing.T) {
	for key, word := range map[string]string{"cluster.https_address": "no clusters", "oidc.issuer": "certificates",
		"core.debug_address": "no profiles", "storage.images_volume": "KILN_DIR"} {
		err := checkSettings(map[string]string{key: "x"})
		if kiln.KindOf(err) != kiln.Unsupported || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", key, err)
		}
		if err := checkSettings(map[string]string{key: ""}); err != nil {
			t.Errorf("unset %s: %v", key, err)
		}
	}
}
