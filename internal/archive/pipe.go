package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is whom programs that decode and compress run as: what they read is foreign.
const nobody = 65534

// bounded starts a program with the limits that its first arguments are: KiB of
// addresses, and blocks of a file that it writes.
const bounded = `ulimit -v "$1" && ulimit -f "$2" && ulimit -c 0 && shift 2 && exec "$0" "$@"`

// mostMemory is what a program that decodes may have, in bytes of addresses.
const mostMemory = 1 << 30

// limits are what a program may have.
type limits struct {
	memory int    // KiB of addresses
	file   string // blocks of a file: "0" or "unlimited"
}

// confined gives the command of a program that runs as nobody with bounded memory, and
// finds a file as inFile. The file may be nil.
func confined(ctx context.Context, l limits, file *os.File, name string, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	start := []string{"-c", bounded, path, strconv.Itoa(l.memory), l.file}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(start, args...)...)
	cmd.WaitDelay = time.Second // when its input blocks
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	return cmd, nil
}

// pipe is a program that decodes.
type pipe struct {
	io.ReadCloser
	cmd    *exec.Cmd
	stderr *clipped
	cancel context.CancelFunc
	ended  bool
	check  func(stderr string) error // once the program has succeeded; may be nil
}

// clipped keeps the beginning of what a program says.
type clipped struct{ bytes.Buffer }

const maxStderr = 64 << 10

func (c *clipped) Write(b []byte) (int, error) {
	c.Buffer.Write(b[:min(len(b), maxStderr-c.Len())])
	return len(b), nil
}

// inFile is the name by which a program finds the file that pipeThrough gives it.
const inFile = "/proc/self/fd/3"

// pipeThrough decodes with a program, which has the other processors for itself. It
// reads in, which may be nil, and file where that isn't nil. It runs as nobody who
// may read files, can't write any, and has so many bytes of memory.
func pipeThrough(ctx context.Context, memory int64, in io.Reader, file *os.File, name string, args ...string) (*pipe,
	error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{stderr: &clipped{}, cancel: cancel}
	var err error
	if p.cmd, err = confined(ctx, limits{int(memory >> 10), "0"}, file, name, args...); err != nil {
		cancel()
		return nil, err
	}
	p.cmd.Stdin, p.cmd.Stderr = in, p.stderr
	if attr := p.cmd.SysProcAttr; attr != nil && file != nil {
		// The program opens the file again, which is root's.
		attr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
	}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	p.ReadCloser = out
	if f, ok := out.(*os.File); ok {
		if raw, err := f.SyscallConn(); err == nil {
			// Fewer switches between the two; it works without, too.
			_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
		}
	}
	return p, nil
}

// Read gives io.EOF only after the program has found nothing wrong.
func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) && !p.ended {
		p.ended = true
		if werr := p.cmd.Wait(); werr != nil {
			return n, fmt.Errorf("%s: %w", strings.TrimSpace(p.stderr.String()), werr)
		}
		if p.check != nil {
			if err := p.check(p.stderr.String()); err != nil {
				return n, err
			}
		}
	}
	return n, err
}

// Close ends the program.
func (p *pipe) Close() error {
	p.cancel()
	if !p.ended {
		p.ended = true
		_ = p.ReadCloser.Close()
		_ = p.cmd.Wait() // it was killed
	}
	return nil
}
