package delta

import (
	"flag"
	"os"
	"testing"
)

// TestMain has fewer checks of each property than rapid's hundred, which take a minute
// with the race detector: every run makes others. -rapid.checks has the last word.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
