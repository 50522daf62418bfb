package client_test

import (
	"os"
	"testing"

	"github.com/kiln-containers/kiln/internal/network/nettest"
)

// TestMain keeps the networks of daemons from those of the host.
func TestMain(m *testing.M) {
	nettest.Isolate()
	os.Exit(m.Run())
}
