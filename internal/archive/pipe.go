package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is whom programs that decode run as: what they read is foreign.
const nobody = 65534

// bounded starts a program that may have 1 GiB of addresses and writes no files.
const bounded = `ulimit -v 1048576 && ulimit -f 0 && ulimit -c 0 && exec "$0" "$@"`

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
// may read files, can't write any, and has bounded memory.
func pipeThrough(ctx context.Context, in io.Reader, file *os.File, name string, args ...string) (*pipe, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{stderr: &clipped{}, cancel: cancel}
	p.cmd = exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", bounded, path}, args...)...)
	p.cmd.Stdin, p.cmd.Stderr = in, p.stderr
	p.cmd.WaitDelay = time.Second // when in blocks
	p.cmd.Dir, p.cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if os.Geteuid() == 0 {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if file != nil {
		p.cmd.ExtraFiles = []*os.File{file}
		if attr := p.cmd.SysProcAttr; attr != nil {
			// The program opens the file again, which is root's.
			attr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
		}
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
