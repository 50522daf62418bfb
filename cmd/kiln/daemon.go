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

	"golang.org/x/sys/unix"

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
	if o.JSON {
		log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	raiseLimits(log)
	wait, _ := time.ParseDuration(stall) // "" is the usual
	d, err := daemon.Open(ctx, daemon.Config{Dir: dir, Log: log, Version: version, Stall: wait})
	if err != nil {
		return err
	}
	var l net.Listener
	if err := d.WithReserve(func() (err error) {
		l, err = listen(filepath.Join(dir, "unix.socket"))
		return err
	}); err != nil {
		return errors.Join(err, d.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := server.New(d, log, stop)
	s.Stall = wait
	listeners := s.Listeners(ctx)
	if err := d.Listen(ctx, o.Listen, listeners.Listen); err != nil {
		return errors.Join(err, l.Close(), d.Close())
	}
	forMetrics := s.MetricsListeners(ctx)
	if err := d.ListenForMetrics(ctx, forMetrics.Listen); err != nil {
		return errors.Join(err, l.Close(), d.Close())
	}
	log.Info("ready", "dir", dir, "version", version)
	notify("READY=1")
	err = s.Serve(ctx, l)
	notify("STOPPING=1")
	stop()
	listeners.Wait()
	forMetrics.Wait()
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

// raiseLimits takes what the host lets a daemon have. Containers share inotify
// instances and keys of the kernel, which are counted for the host's user that they
// all are: the usual limits are used up by some 20 systems. A host that says no is
// found out when a container can't start, whose error names the limit.
func raiseLimits(log *slog.Logger) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil && files.Cur < files.Max {
		files.Cur = files.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
			log.Warn("raise the number of open files", "err", err)
		}
	}
	for _, l := range daemon.LowLimits(os.ReadFile) {
		if err := os.WriteFile(l.Path(), []byte(strconv.Itoa(l.Want)), 0); err != nil {
			log.Warn("raise a limit of the kernel", "limit", l.Name, "err", err)
		}
	}
}
