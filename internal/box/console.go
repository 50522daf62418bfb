package box

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A Console is the terminal that a container has as /dev/console. Its monitor has
// the outer end, copies what the container writes to the log, and does so without
// a daemon and without anybody who reads along.
//
// liblxc would hand the terminal to one client. That isn't used: its monitor then
// waits for a client that doesn't read, and it can't start the container again when
// that reboots meanwhile. So what is shown comes from the log, and only what is typed
// goes through the monitor's descriptor.
type Console struct {
	box   *Box
	log   *os.File
	typed chan struct{} // something was: an echo is about to come
}

// Console opens the container's console, to show what it writes from now on. There
// may be any number of them. The error is Conflict when the monitor died, and
// Unsupported when this host keeps the daemon from the monitor's descriptors.
func (b *Box) Console() (*Console, error) {
	master, err := b.consoleMaster()
	if err != nil {
		return nil, err
	}
	master.Close()
	f, err := disk.Open(b.ConsoleLog())
	if err != nil {
		return nil, fmt.Errorf("open the log of the console: %w", err)
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Console{box: b, log: f, typed: make(chan struct{}, 1)}, nil
}

// Close lets go of the console.
func (c *Console) Close() error { return c.log.Close() }

const (
	quickLook = 5 * time.Millisecond  // between looks at the log while something goes on
	slowLook  = 50 * time.Millisecond // and while nothing does
	busyTime  = time.Second           // how long something goes on after the last sign of it
)

// Follow copies what the container writes to w, until ctx ends; then it copies the
// rest and returns. What the log has dropped before w took it is left out.
func (c *Console) Follow(ctx context.Context, w io.Writer) error {
	last := time.Now()
	for {
		n, err := c.copyNew(w)
		if err != nil {
			return err
		}
		if n > 0 {
			last = time.Now()
		}
		look := slowLook
		if time.Since(last) < busyTime {
			look = quickLook
		}
		select {
		case <-ctx.Done():
			_, err := c.copyNew(w)
			return err
		case <-c.typed:
			last = time.Now()
		case <-time.After(look):
		}
	}
}

// copyNew copies what the log has more than before. The monitor begins another file
// when one is full, and somebody may empty it.
func (c *Console) copyNew(w io.Writer) (int64, error) {
	total, err := io.Copy(w, c.log)
	if err != nil {
		return total, err
	}
	now, err := os.Stat(c.box.ConsoleLog())
	if err != nil {
		return total, nil // between two files
	}
	has, err := c.log.Stat()
	if err != nil {
		return total, err
	}
	if !os.SameFile(now, has) {
		next, err := disk.Open(c.box.ConsoleLog())
		if err != nil {
			return total, nil
		}
		rest, err := io.Copy(w, c.log) // written before the other was begun
		c.log.Close()
		c.log = next
		return total + rest, err
	}
	at, err := c.log.Seek(0, io.SeekCurrent)
	if err == nil && has.Size() < at {
		_, err = c.log.Seek(0, io.SeekStart)
	}
	return total, err
}

// Type types into the console. It returns when the container has room for all of it,
// or the error of ctx. What is typed while the container reboots is lost.
func (c *Console) Type(ctx context.Context, b []byte) error {
	master, err := c.box.consoleMaster()
	if errors.Is(err, kiln.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer master.Close()
	fd := int(master.Fd())
	// The descriptor is the monitor's, so it can't be made one that doesn't wait:
	// there is room for one byte when poll says so, and not more for sure.
	for i := range b {
		for !writable(fd) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		if _, err := unix.Write(fd, b[i:i+1]); err != nil {
			return nil // nobody has the inner end: the container has ended or reboots
		}
	}
	select {
	case c.typed <- struct{}{}:
	default:
	}
	return nil
}

// writable waits a little until a terminal takes a byte.
func writable(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 50)
	return err == nil && n == 1
}

// Resize tells the container the size of the terminal, in characters.
func (c *Console) Resize(width, height int) error {
	if width < 1 || height < 1 || width > 0xffff || height > 0xffff {
		return kiln.Errorf(kiln.Invalid, "a terminal can't have %d by %d characters", width, height)
	}
	master, err := c.box.consoleMaster()
	if errors.Is(err, kiln.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer master.Close()
	return unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
}

// consoleMaster opens the outer end of the console that the container has at this
// moment; each reboot brings another. Whoever has it keeps the container's terminal
// open, so nobody keeps it. The error is NotFound while there is none.
func (b *Box) consoleMaster() (*os.File, error) {
	b.mu.Lock()
	if b.monitor == nil {
		b.mu.Unlock()
		return nil, kiln.Errorf(kiln.Conflict, "the container's monitor died, and its console with it; stop the container "+
			"with --force and start it again")
	}
	monitor, err := b.monitor.dup()
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	dir := fmt.Sprintf("/proc/%d/fd", monitor.PID)
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, kiln.Errorf(kiln.NotFound, "the container's monitor has ended")
	}
	for _, e := range list {
		var number int
		if to, err := os.Readlink(dir + "/" + e.Name()); err != nil || !strings.HasSuffix(to, "ptmx") ||
			!scan(e.Name(), "%d", &number) {
			continue
		}
		fd, err := unix.PidfdGetfd(monitor.fd, number, 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			return nil, kiln.Errorf(kiln.Unsupported, "this host keeps kiln from the console of its container (pidfd_getfd: "+
				"%w); see kernel.yama.ptrace_scope, and use the console's log and a shell by exec meanwhile", err)
		}
		if err != nil {
			continue
		}
		if _, err := unix.IoctlGetInt(fd, unix.TIOCGPTN); err == nil {
			return os.NewFile(uintptr(fd), "console"), nil
		}
		unix.Close(fd)
	}
	return nil, kiln.Errorf(kiln.NotFound, "the container has no console at this moment")
}
