package box

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/rootfd"
)

// haltSignal says which signal asks the init of a root filesystem to power off:
// each of systemd(1), busybox and sysvinit has its own. No container runs there yet.
func haltSignal(rootfs *os.File) int {
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
	return signalOf(path)
}

// signalOf gives the signal for the program that a path is of.
func signalOf(path string) int {
	const rtmin = 34 // SIGRTMIN of the C libraries of Linux
	switch base := filepath.Base(path); {
	case strings.Contains(base, "systemd"):
		return rtmin + 3
	case strings.Contains(base, "busybox"):
		return int(unix.SIGUSR2)
	}
	return int(unix.SIGPWR)
}

// askTime is how long kiln-init may take: the paths are the container's, who may serve them
// itself.
const askTime = 5 * time.Second

// haltSignalOf is haltSignal for a container that runs, by its init.
func haltSignalOf(init identity) int {
	p, err := openProcess(init)
	if err != nil {
		return int(unix.SIGPWR)
	}
	held := os.NewFile(uintptr(p.fd), "pidfd")
	defer held.Close()
	path, _ := askInit(context.Background(), "name", held, p.PID)
	return signalOf(path)
}

// askSysvinit asks a sysvinit to go to runlevel 0. Its signal for that, SIGPWR, does
// nothing where its inittab has no entry for a power failure, as in Debian. Another init
// hears nothing. It returns when nobody waits for the container's files any more.
func (b *Box) askSysvinit(ctx context.Context) {
	init, pid, err := b.holdInit()
	if err != nil {
		return
	}
	defer init.Close()
	_, reaped := askInit(ctx, "halt", init, pid)
	<-reaped
}

// askInit runs kiln-init, and gives its answer, "" when there is none. reaped is closed when
// the process is gone, which may be when the container is.
func askInit(ctx context.Context, what string, init *os.File, pid int) (answer string, reaped <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	done := make(chan struct{})
	h, err := runHelper(ctx, "kiln-init", nil, []*os.File{init}, what, strconv.Itoa(pid))
	if err != nil {
		close(done)
		return "", done
	}
	answer, _ = h.line(ctx)
	go func() {
		defer close(done)
		_ = h.wait()
		_ = h.Close()
	}()
	return answer, done
}
