package remote_test

import (
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/remote"
)

// TestMigrationUnreachable has nobody listen where the other server is said to be: the error
// says so in plain words, whatever the secrets are, and tells none of them.
func TestMigrationUnreachable(t *testing.T) {
	for _, secret := range []string{"a", "0123456789abcdef"} {
		_, err := (&remote.Opener{}).Migration(t.Context(), remote.Migration{
			Operation: "https://127.0.0.1:1/1.0/operations/x", Secrets: map[string]string{"control": secret, "fs": secret}})
		if kiln.KindOf(err) != kiln.Network || !strings.HasSuffix(err.Error(), "connection refused") ||
			!strings.HasPrefix(err.Error(), "connect to https://127.0.0.1:1/1.0/operations/x: ") ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", secret, err)
		}
	}
}
