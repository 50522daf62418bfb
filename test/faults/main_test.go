// Package faults lets images travel between real daemons over a network that
// fails, from servers that lie, and onto disks that are full.
package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/test/machine"
)

// stall is how long the daemons of these tests let others keep them waiting.
const stall = 4 * time.Second

// TestMain builds the command, which every test finds by its name.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if address := os.Getenv(crowdKey); address != "" {
		return crowdMain(address, os.Getenv(crowdKey+"_SIZE"))
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "10"); err != nil { // most of them wait
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	remove, err := machine.Build("../..", stall)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	return m.Run()
}
