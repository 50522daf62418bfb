// Package nettest keeps the networks of tests from those of the host: a test binary
// moves to a network namespace of its own before it runs, with all that it starts.
//
// It doesn't know what is tested.
package nettest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/network/netspace"
	"github.com/kiln-containers/kiln/internal/proxy"
)

// Isolate is called first in TestMain. It starts the binary anew in namespaces of its
// own, unless it is there already, or is one of those commands that tests run.
func Isolate(commands ...string) {
	switch os.Args[0] {
	case network.Program:
		exit(network.Main())
	case proxy.Program:
		exit(proxy.Main())
	case proxy.DeviceProgram:
		exit(proxy.DeviceMain())
	}
	for _, c := range commands {
		if filepath.Base(os.Args[0]) == c {
			return
		}
	}
	if os.Getenv(netspace.Isolated) != "" {
		if err := loopback(); err != nil {
			exit(err)
		}
		return
	}
	exit(move())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "a network namespace for tests:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// move comes back with an error only.
func move() error {
	runtime.LockOSThread()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := ownSys(); err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), netspace.Isolated+"=1"))
}

// ownSys mounts a /sys that shows the interfaces of the namespace, with the control
// groups of the host.
func ownSys() error {
	const groups = "/sys/fs/cgroup"
	fd, err := unix.OpenTree(unix.AT_FDCWD, groups, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("%s: %w", groups, err)
	}
	defer unix.Close(fd)
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, groups, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// loopback switches the namespace's own interface on.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
