// Command kiln is the daemon and its client in one.
package main

import (
	"context"
	"os"

	"github.com/kiln-containers/kiln/internal/cli"
)

// version is set by the build.
var version = "dev"

func main() {
	io := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Main(context.Background(), os.Args[1:], io, cli.Deps{Daemon: runDaemon, Version: version}))
}
