package hardware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch calls came whenever the kernel has made or removed a device that has a node, one call
// after the other, until ctx ends; several changes may be one call. The kernel tells of them
// by netlink(7), NETLINK_KOBJECT_UEVENT.
func Watch(ctx context.Context, came func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("watch devices that come and go: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "uevents")
	defer socket.Close()
	const fromKernel = 1 // the group; udev's own has another
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: fromKernel}); err != nil {
		return fmt.Errorf("watch devices that come and go: %w", err)
	}
	defer context.AfterFunc(ctx, func() { socket.Close() })()
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), buffer, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch sender, _ := from.(*unix.SockaddrNetlink); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case errors.Is(failed, unix.ENOBUFS): // some were lost
			came()
		case failed != nil && !errors.Is(failed, unix.EINTR):
			return fmt.Errorf("watch devices that come and go: %w", failed)
		case failed == nil && sender != nil && sender.Pid == 0 && isChange(buffer[:n]):
			came()
		}
	}
}

// isChange reports whether a message of the kernel's tells of a device with a node that came
// or went: "ACTION@PATH", and lines KEY=VALUE, each with a zero at its end.
func isChange(message []byte) bool {
	var action, node bool
	for line := range bytes.SplitSeq(message, []byte{0}) {
		switch key, value, _ := bytes.Cut(line, []byte("=")); string(key) {
		case "ACTION":
			action = string(value) == "add" || string(value) == "remove"
		case "DEVNAME":
			node = true
		}
	}
	return action && node
}
