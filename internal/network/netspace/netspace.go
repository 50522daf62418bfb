// Package netspace runs programs for tests in the network of the host, which test binaries
// move away from (nettest).
package netspace

import (
	"fmt"
	"os"
)

// Isolated is the variable that says that the binary has moved.
const Isolated = "KILN_TEST_NETWORK"

// HostArgs gives the command line that runs a program in the network of the host, for
// what tests have to fetch.
func HostArgs(args ...string) []string {
	if os.Getenv(Isolated) == "" {
		return args
	}
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", os.Getppid())}, args...)
}
