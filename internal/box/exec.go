package box

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// An ExecSpec says what command to run in a container.
type ExecSpec struct {
	Command []string
	Env     map[string]string // besides PATH and container=lxc, which may be set too
	UID     uint32            // in the container
	GID     uint32
	Cwd     string // "": $HOME, or "/" where there is none
	// With TTY the command gets a terminal of the container's own, and
	// Process.PTY is its other end. Without it, the three files; nil ones
	// are /dev/null of the container's helper.
	TTY                   bool
	Width, Height         int
	Stdin, Stdout, Stderr *os.File
}

// A Process is a command that runs in a container.
type Process struct {
	helper *helper
	pty    *os.File

	mu   sync.Mutex
	proc process // none after Close
}

// execTime is how long a command may take to begin.
const execTime = 30 * time.Second

// check refuses what can't be handed to a command: arguments of programs end at a NUL
// byte, and the largest id stands for "none" in system calls.
func (s *ExecSpec) check() error {
	if len(s.Command) == 0 || s.Command[0] == "" {
		return kiln.Errorf(kiln.Invalid, "the command is empty")
	}
	words := append([]string{s.Cwd}, s.Command...)
	for k, v := range s.Env {
		if k == "" || strings.Contains(k, "=") {
			return kiln.Errorf(kiln.Invalid, "%q can't be the name of an environment variable", k)
		}
		words = append(words, k, v)
	}
	for _, w := range words {
		if strings.ContainsRune(w, 0) {
			return kiln.Errorf(kiln.Invalid, "%.40q has a NUL byte, which commands, directories and variables can't have", w)
		}
	}
	if s.UID == math.MaxUint32 || s.GID == math.MaxUint32 {
		return kiln.Errorf(kiln.Invalid, "%d is no user or group id", uint32(math.MaxUint32))
	}
	return nil
}

// errOrphan says that a container's monitor died, which is asked for each command.
var errOrphan = kiln.Errorf(kiln.Conflict, "the container's monitor died; restart the container with --force")

// Exec starts a command. The caller waits for it.
// Errors: Invalid, Conflict when the container doesn't run or may have no more processes,
// Timeout.
func (b *Box) Exec(ctx context.Context, s ExecSpec) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	orphan, monitor := b.monitor == nil, b.state.Monitor
	b.mu.Unlock()
	if orphan {
		return nil, errOrphan
	}
	p := &Process{}
	stdio := []*os.File{s.Stdin, s.Stdout, s.Stderr}
	terminal := []string{"0", "", "", "", ""}
	var files []*os.File
	var hand *os.File // where the terminal comes from
	if s.TTY {
		init, pid, err := b.holdInit()
		if err != nil {
			return nil, err
		}
		defer init.Close()
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		defer ours.Close()
		defer theirs.Close()
		hand, files, stdio = ours, []*os.File{init, theirs}, make([]*os.File, 3)
		terminal = []string{"1", strconv.Itoa(pid), strconv.Itoa(b.hostID(s.UID)), strconv.Itoa(s.Width),
			strconv.Itoa(s.Height)}
	}
	for i, f := range stdio {
		if f == nil {
			null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			defer null.Close()
			stdio[i] = null
		}
	}
	boundLog(filepath.Join(b.dir, logFile)) // helpers write to it, too
	request := []string{runDir, b.state.ID, filepath.Join(b.dir, configFile),
		strconv.FormatUint(uint64(s.UID), 10), strconv.FormatUint(uint64(s.GID), 10), s.Cwd}
	request = append(append(request, terminal...), strconv.Itoa(len(s.Env)))
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		request = append(request, k+"="+s.Env[k])
	}
	var err error
	if p.helper, err = runHelper(ctx, "kiln-attach", stdio, files, append(request, s.Command...)...); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	var n int
	begin, cancel := context.WithTimeoutCause(ctx, execTime, kiln.Errorf(kiln.Timeout,
		"the command did not begin within %v; a file system that the container serves itself may not answer", execTime))
	defer cancel()
	line, err := p.helper.line(begin)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if !scan(line, "pid %d", &n) {
		if limit := b.fullOfProcesses(); limit > 0 {
			return nil, errors.Join(kiln.Errorf(kiln.Conflict, "the instance has as many processes as limits.processes "+
				"allows, %d; raise the limit, or end some of them", limit), p.Close())
		}
		m, err := openProcess(monitor)
		if err != nil { // since it was taken over
			return nil, errors.Join(errOrphan, p.Close())
		}
		m.Close()
		return nil, errors.Join(kiln.Errorf(kiln.Internal, "run a command in the container: %s (see %s)",
			orElse(line, "the helper died"), filepath.Join(b.dir, logFile)), p.Close())
	}
	if hand != nil {
		if p.pty, err = receiveFile(hand); err != nil {
			return nil, errors.Join(fmt.Errorf("take the terminal: %w", err), p.Close())
		}
	}
	// It can be gone by now: then there is nothing to signal.
	p.proc, _ = openProcess(identify(n))
	return p, nil
}

// hostID gives the host's id of a user of the container, root's when it has none.
func (b *Box) hostID(uid uint32) int {
	if b.state.Privileged {
		return int(uid)
	}
	return int(b.state.RootUID + uid)
}

// PTY is the outer end of the command's terminal, nil without one. Reading gives
// EIO once the command and its children have closed the inner end.
func (p *Process) PTY() *os.File { return p.pty }

// PID gives the process id on the host, 0 when it ended at once.
func (p *Process) PID() int { return p.proc.PID }

// Signal sends a signal to the command. One that is gone is no error.
func (p *Process) Signal(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.proc.signal(unix.Signal(n)); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Resize tells the command the size of the terminal, in characters.
func (p *Process) Resize(width, height int) error {
	if p.pty == nil {
		return kiln.Errorf(kiln.Invalid, "the command has no terminal")
	}
	return control(p.pty, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
	})
}

// Wait returns the command's exit code: 128 plus the signal that ended it, 127
// when it wasn't found, 126 when it couldn't be run.
func (p *Process) Wait() (int, error) {
	line, err := p.helper.read()
	var code int
	if err == nil && !scan(line, "exit %d", &code) {
		err = kiln.Errorf(kiln.Internal, "the helper of a command died: %s", line)
	}
	return code, errors.Join(err, p.helper.wait())
}

// Close lets go of the command, and of its terminal.
func (p *Process) Close() error {
	var errs []error
	if p.helper != nil {
		errs = append(errs, p.helper.Close())
	}
	p.mu.Lock()
	p.proc.Close()
	p.proc = process{}
	p.mu.Unlock()
	if p.pty != nil {
		errs = append(errs, p.pty.Close())
	}
	return errors.Join(errs...)
}

// control runs f on the descriptor of a file without making it blocking.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}

// socketPair makes two connected sockets, of which files can be received.
func socketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// receiveFile takes the file that has been sent to a socket. It doesn't wait.
func receiveFile(socket *os.File) (*os.File, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), b[:], oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(err, errors.New("no file came"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(err, errors.New("no file came"))
	}
	return os.NewFile(uintptr(fds[0]), "ptmx"), nil
}

// Drain copies what a command writes on its terminal until the last writer is
// gone, which the kernel tells as EIO.
func Drain(w io.Writer, pty io.Reader) error {
	_, err := io.Copy(w, pty)
	if errors.Is(err, unix.EIO) {
		return nil
	}
	return err
}
