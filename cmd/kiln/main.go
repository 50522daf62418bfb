// Command kiln is the daemon and its client in one.
package main

import (
	"context"
	"os"
	"time"

	"github.com/kiln-containers/kiln/internal/cli"
)

// What the build sets.
var (
	version = "dev"
	stall   = "" // how long others may keep it waiting, where tests can't wait as long as that
)

func main() {
	wait, _ := time.ParseDuration(stall) // "" is the usual
	io := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Main(context.Background(), os.Args[1:], io, cli.Deps{Daemon: runDaemon, Version: version, Stall: wait}))
}
