package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/cli"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/server"
)

// runDaemon wires the daemon to its socket, until ctx ends.
func runDaemon(ctx context.Context, o cli.DaemonOptions) error {
	if os.Geteuid() != 0 {
		return kiln.Errorf(kiln.Denied, "the daemon must be started by root")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if o.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	wait, _ := time.ParseDuration(stall) // "" is the usual
	d, err := daemon.Open(ctx, daemon.Config{Dir: dir, Log: log, Version: version, Stall: wait})
	if err != nil {
		return err
	}
	l, err := listen(filepath.Join(dir, "unix.socket"))
	if err != nil {
		return errors.Join(err, d.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := server.New(d, log, stop)
	s.Stall = wait
	network := s.Network(ctx)
	if err := d.Listen(ctx, o.Listen, network.Listen); err != nil {
		return errors.Join(err, l.Close(), d.Close())
	}
	log.Info("ready", "dir", dir, "version", version)
	notify("READY=1")
	err = s.Serve(ctx, l)
	notify("STOPPING=1")
	stop()
	network.Wait()
	return errors.Join(err, d.Close())
}

// listen opens the daemon's socket, or takes the one that systemd opened. A
// socket that is left over is replaced: the daemon has locked the directory.
func listen(path string) (net.Listener, error) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") == "1" {
		f := os.NewFile(3, "systemd socket")
		defer f.Close()
		return net.FileListener(f)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	gid := 0
	if g, err := user.LookupGroup("kiln"); err == nil {
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// notify tells systemd how it stands, as sd_notify(3) does.
func notify(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	if c, err := net.Dial("unixgram", address); err == nil {
		_, _ = c.Write([]byte(state)) // who doesn't listen needn't know
		c.Close()
	}
}
