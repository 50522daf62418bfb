package db

import (
	"os"
	"testing"

	"github.com/kiln-containers/kiln/internal/project"
)

// TestMain has tests be about the default project where they don't say another one.
func TestMain(m *testing.M) {
	project.Assume(project.Alone(project.Default))
	os.Exit(m.Run())
}
