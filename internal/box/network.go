package box

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/thread"
)

// An Interface is a network interface inside a container.
type Interface struct {
	net.Interface
	Addresses             []net.IPNet
	BytesIn, BytesOut     int64
	PacketsIn, PacketsOut int64
}

// setupTime is how long Network waits for a container that is being set up.
const setupTime = 2 * time.Second

// Network looks at the interfaces inside the container. One that is rebooting has the
// host's for a moment, and then those that are not named yet: it waits until that is over.
// Errors: Conflict when the container ends meanwhile, Timeout.
func (b *Box) Network(ctx context.Context) ([]Interface, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, setupTime, kiln.Errorf(kiln.Timeout,
		"the container isn't set up after %v", setupTime))
	defer cancel()
	for {
		err := b.Begun(ctx)
		if err == nil {
			var list []Interface
			if list, err = b.readNetwork(); err == nil {
				return list, nil
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !b.mayReboot() {
			return nil, err
		}
		time.Sleep(initPoll)
	}
}

// mayReboot reports whether the monitor goes on, whatever has become of init.
func (b *Box) mayReboot() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.monitor != nil && !b.monitor.ended()
}

func (b *Box) readNetwork() ([]Interface, error) {
	pid := b.InitPID()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var list []Interface
	err = thread.Run(func() (err error) {
		list, err = interfaces(ns)
		return err
	})
	if err != nil {
		return nil, err
	}
	counters, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "net/dev"))
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].count(string(counters))
	}
	return list, nil
}

func interfaces(ns *os.File) ([]Interface, error) {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	found, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []Interface
	for _, f := range found {
		i := Interface{Interface: f}
		addresses, err := f.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok {
				i.Addresses = append(i.Addresses, *ip)
			}
		}
		list = append(list, i)
	}
	return list, nil
}

// count reads the interface's line of proc_pid_net_dev: bytes and packets are the
// first and second of eight numbers received, then of eight sent.
func (i *Interface) count(dev string) {
	for line := range strings.Lines(dev) {
		name, numbers, ok := strings.Cut(line, ":")
		f := strings.Fields(numbers)
		if !ok || strings.TrimSpace(name) != i.Name || len(f) < 10 {
			continue
		}
		for at, n := range map[int]*int64{0: &i.BytesIn, 1: &i.PacketsIn, 8: &i.BytesOut, 9: &i.PacketsOut} {
			*n, _ = strconv.ParseInt(f[at], 10, 64)
		}
	}
}

// Up reports whether the interface is switched on.
func (i Interface) Up() bool { return i.Flags&net.FlagUp != 0 }

// Loopback reports whether the interface leads nowhere else.
func (i Interface) Loopback() bool { return i.Flags&net.FlagLoopback != 0 }
