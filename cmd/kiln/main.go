// Command kiln is the daemon and its client in one.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/kiln-containers/kiln/internal/cli"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/proxy"
)

// What the build sets.
var (
	version = "dev"
	stall   = "" // how long others may keep it waiting, where tests can't wait as long as that
)

func main() {
	for program, main := range map[string]func() error{network.Program: network.Main, proxy.Program: proxy.Main,
		proxy.DeviceProgram: proxy.DeviceMain} {
		if os.Args[0] == program {
			if err := main(); err != nil {
				log.Fatal(err)
			}
			return
		}
	}
	wait, _ := time.ParseDuration(stall) // "" is the usual
	io := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Main(context.Background(), os.Args[1:], io, cli.Deps{
		Daemon: runDaemon, RestoreDatabase: daemon.RestoreDatabase, Recover: recoverFiles, Lost: listLost,
		DropLost: daemon.DropLost, Version: version, Stall: wait,
	}))
}

// recoverFiles wires the repair of a daemon's directory.
func recoverFiles(ctx context.Context, dir string) (cli.Recovery, error) {
	r, err := daemon.Recover(ctx, daemon.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Version: version})
	return cli.Recovery(r), err
}

// listLost wires the list of what is on the disk and in no row.
func listLost(ctx context.Context, dir string) ([]cli.Lost, error) {
	all, err := daemon.ListLost(ctx, dir)
	list := []cli.Lost{}
	for _, l := range all {
		list = append(list, cli.Lost(l))
	}
	return list, err
}
