// Package machine is for tests with real daemons: it builds the command, and has
// machines with a daemon and a user of their own. It doesn't know what is tested, nor
// package testing: whoever uses it says what an error means.
package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/network/nettest"
	"github.com/kiln-containers/kiln/internal/trust"
)

// Build builds the command and puts it first in PATH, until remove. Its daemons and
// clients let others keep them waiting for stall at most. repo is the root of the
// module.
func Build(repo string, stall time.Duration) (remove func(), err error) {
	dir, err := os.MkdirTemp("", "kiln-bin-")
	if err != nil {
		return nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	// With the flags of make, so that only the linker has work where that has been.
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "kiln"),
		"-ldflags", "-s -w -X main.stall="+stall.String(), "./cmd/kiln")
	build.Dir, build.Env = repo, append(os.Environ(), "CGO_CFLAGS=-O2 -g")
	if out, err := build.CombinedOutput(); err != nil {
		remove()
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return remove, os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// A Machine has a daemon and a user.
type Machine struct {
	Dir     string // of the daemon
	Home    string // of the user
	Address string // of the daemon on the network

	daemon *exec.Cmd
	log    *os.File
}

// New makes a machine whose daemon was not started yet. The path of dir must be short,
// as the socket is in it.
func New(dir, home string) (*Machine, error) {
	address, err := nettest.FreeAddress()
	if err != nil {
		return nil, err
	}
	m := &Machine{Dir: dir, Home: home, Address: address}
	m.log, err = os.Create(filepath.Join(home, "log"))
	return m, err
}

// Launch starts the daemon, which may not answer yet.
func (m *Machine) Launch() error {
	m.daemon = m.Command(context.Background(), "daemon", "--dir", m.Dir, "--listen", m.Address)
	m.daemon.Stdout, m.daemon.Stderr = m.log, m.log
	return m.daemon.Start()
}

// Start starts the daemon and waits until it answers. A daemon that ends instead is an
// error.
func (m *Machine) Start(ctx context.Context, bound time.Duration) error {
	if err := m.Launch(); err != nil {
		return err
	}
	c := m.Client()
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := c.Get(ctx, "/1.0", nil, nil); err == nil {
			return nil
		}
		if m.ended() {
			break
		}
	}
	return fmt.Errorf("the daemon in %s doesn't answer", m.Dir)
}

// ended tells whether the daemon's process is a zombie.
func (m *Machine) ended() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.daemon.Process.Pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z")
}

// PID is the daemon's; 0: it doesn't run.
func (m *Machine) PID() int {
	if m.daemon == nil {
		return 0
	}
	return m.daemon.Process.Pid
}

// End ends the daemon by a signal and waits for that.
func (m *Machine) End(s os.Signal) {
	if m.daemon == nil {
		return
	}
	_ = m.daemon.Process.Signal(s)
	_ = m.daemon.Wait()
	m.daemon = nil
}

// Close ends the daemon in order.
func (m *Machine) Close() error {
	m.End(syscall.SIGINT)
	return m.log.Close()
}

// Log is what the daemons said.
func (m *Machine) Log() string {
	text, err := os.ReadFile(m.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Command makes a command of the user's.
func (m *Machine) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "kiln", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + m.Home, "KILN_DIR=" + m.Dir, "KILN_CONF=" + filepath.Join(m.Home, "conf"),
		"NO_COLOR=1", "GOTRACEBACK=all",
	}
	return cmd
}

// A Said is what a command said.
type Said struct {
	Line     string
	Code     int // -1: it was killed
	Out, Err string
}

// Word is the last word of the output: a token, a fingerprint.
func (s Said) Word() string {
	if f := strings.Fields(s.Out); len(f) > 0 {
		return f[len(f)-1]
	}
	return ""
}

// Run runs a command of the user's until it ends or ctx does. How it ended is no
// error.
func (m *Machine) Run(ctx context.Context, args ...string) (Said, error) {
	cmd := m.Command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Said{}, err
	}
	return Said{strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), errs.String()}, nil
}

// Client talks to the daemon as root does.
func (m *Machine) Client() *client.Client { return client.Unix(filepath.Join(m.Dir, "unix.socket")) }

// Certificate is the fingerprint of what the daemon shows.
func (m *Machine) Certificate() (string, error) {
	text, err := os.ReadFile(filepath.Join(m.Dir, "server.crt"))
	if err != nil {
		return "", err
	}
	c, err := trust.Parse(text)
	if err != nil {
		return "", err
	}
	return trust.Fingerprint(c), nil
}
