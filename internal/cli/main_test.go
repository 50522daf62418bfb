package cli

import (
	"os"
	"testing"

	"github.com/kiln-containers/kiln/internal/network/nettest"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestMain keeps the networks of daemons from those of the host.
func TestMain(m *testing.M) {
	project.Assume(project.Alone(project.Default)) // for what is done beside requests
	nettest.Isolate()
	os.Exit(m.Run())
}
