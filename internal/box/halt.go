package box

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/rootfd"
)

// haltSignal says which signal asks the init of a root filesystem to power off:
// each of systemd(1), busybox and sysvinit has its own.
func haltSignal(rootfs *os.File) int {
	const rtmin = 34 // SIGRTMIN of the C libraries of Linux
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := rootfd.Openat2(int(rootfs.Fd()), "sbin/init", how)
	if err != nil {
		return int(unix.SIGPWR)
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return int(unix.SIGPWR)
	}
	switch base := filepath.Base(path); {
	case strings.Contains(base, "systemd"):
		return rtmin + 3
	case strings.Contains(base, "busybox"):
		return int(unix.SIGUSR2)
	}
	return int(unix.SIGPWR)
}

// initRequest is what sysvinit reads from its pipe, /run/initctl: struct init_request of its
// initreq.h, 384 bytes.
type initRequest struct {
	Magic, Command, Runlevel, Sleep int32
	_                               [368]byte
}

// askSysvinit asks a sysvinit to go to runlevel 0. Its signal for that, SIGPWR, does
// nothing where its inittab has no entry for a power failure, as in Debian. Another init
// has nobody at the other end of the pipe: the error is ENOENT or ENXIO. The path is the
// container's, who may serve it itself, so this may take for ever.
func (b *Box) askSysvinit() error {
	b.mu.Lock()
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", b.init.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(root)
		err = b.init.signal(0) // else the number may be another process's now
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	fd, err := rootfd.Openat2(root, "run/initctl", unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return errors.Join(unix.ENOENT, err)
	}
	pipe, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var request bytes.Buffer
	err = binary.Write(&request, binary.NativeEndian, initRequest{Magic: 0x03091969, Command: 1, Runlevel: '0'})
	if err == nil {
		_, err = unix.Write(pipe, request.Bytes()) // whole or not at all, and at once
	}
	return errors.Join(err, unix.Close(pipe))
}
