package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
)

// Program is the name that this binary is run with as netd.
const Program = "kiln-netd"

// nobody is who netd is.
const nobody = 65534

// The files of the directory that netd is told by. Each network has one, written whole.
const (
	lockFile  = "netd.lock" // locked as long as netd runs; has its process id and version
	logFile   = "netd.log"
	networkEx = ".json"
)

// A Directory is where the daemon writes down what netd is to serve. It outlives both.
type Directory struct {
	Path    string
	Version string // of this program; a netd of another one is replaced
}

// Set has netd serve a network from now on, or what has changed of it. It returns when
// that is written down, and a netd runs.
func (d Directory) Set(n Network) error {
	if err := errors.Join(disk.MkdirAll(d.Path, 0o755), os.Chmod(d.Path, 0o755)); err != nil {
		return err
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	path := filepath.Join(d.Path, n.Name+networkEx)
	if old, err := os.ReadFile(path); err != nil || !bytes.Equal(old, b) {
		temp := path + ".new"
		// netd may read it whatever the umask is.
		if err := errors.Join(os.WriteFile(temp, b, 0o644), os.Chmod(temp, 0o644)); err != nil {
			return err
		}
		if err := os.Rename(temp, path); err != nil { // not synced: it is written again after a power cut
			return errors.Join(err, os.Remove(temp))
		}
	}
	return d.Ensure()
}

// Remove has netd serve a network no more.
func (d Directory) Remove(name string) error {
	err := os.Remove(filepath.Join(d.Path, name+networkEx))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if p := d.running(); p != nil {
		err = errors.Join(err, p.Signal(syscall.SIGWINCH), p.Release())
	}
	return err
}

// Networks gives those that netd is to serve. What can't be read is left out.
func (d Directory) Networks() []Network {
	root, err := os.OpenRoot(d.Path)
	if err != nil {
		return nil
	}
	defer root.Close()
	return readNetworks(root.FS())
}

func readNetworks(dir fs.FS) []Network {
	var list []Network
	names, _ := fs.Glob(dir, "*"+networkEx) // the pattern is well-formed
	for _, name := range names {
		var n Network
		if b, err := fs.ReadFile(dir, name); err == nil && json.Unmarshal(b, &n) == nil {
			list = append(list, n)
		}
	}
	return list
}

// Ensure has a netd of this version run, and tells it to look again.
func (d Directory) Ensure() error {
	if p := d.running(); p != nil {
		defer p.Release()
		b, _ := os.ReadFile(filepath.Join(d.Path, lockFile))
		if f := strings.Fields(string(b)); len(f) == 2 && f[1] == d.Version {
			return p.Signal(syscall.SIGWINCH)
		}
		if err := d.end(p); err != nil {
			return err
		}
	}
	return d.start()
}

// Running reports whether there is a netd.
func (d Directory) Running() bool {
	p := d.running()
	if p == nil {
		return false
	}
	return p.Release() == nil
}

// running gives the process that holds the lock; nil: none does. Its number is that of no
// other process, since the lock is looked at again when it is open.
func (d Directory) running() *os.Process {
	f, err := os.Open(filepath.Join(d.Path, lockFile))
	if err != nil {
		return nil
	}
	defer f.Close()
	held := func() bool {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
			return errors.Is(err, unix.EWOULDBLOCK)
		}
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		return false
	}
	// Whoever starts one writes the number just after it took the lock.
	for end := time.Now().Add(2 * time.Second); held() && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var pid int
		b := make([]byte, 64)
		n, _ := f.ReadAt(b, 0)
		if _, err := fmt.Sscan(string(b[:n]), &pid); err != nil || pid <= 0 {
			continue
		}
		p, err := os.FindProcess(pid)
		if err == nil && held() {
			return p
		}
	}
	return nil
}

// endTime is how long a netd may take to end.
const endTime = 5 * time.Second

func (d Directory) end(p *os.Process) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for end := time.Now().Add(endTime); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		q := d.running()
		if q == nil {
			return nil
		}
		_ = q.Release()
	}
	return p.Kill()
}

// Stop ends the netd, if there is one.
func (d Directory) Stop() error {
	p := d.running()
	if p == nil {
		return nil
	}
	return errors.Join(d.end(p), p.Release())
}

// start runs a netd, which is nobody and has two capabilities: it reads what hostile
// containers send. It is given its directory and its lock, since it may not open them.
func (d Directory) start() error {
	lock, err := os.OpenFile(filepath.Join(d.Path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil // somebody else has just started one
		}
		return err
	}
	dir, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	log, err := os.OpenFile(filepath.Join(d.Path, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := lock.Truncate(0); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{Program}
	cmd.Env = []string{"GOMEMLIMIT=32MiB", "GOGC=50"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{dir, lock}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", Program, err)
	}
	go func() { _ = cmd.Wait() }() // whatever it ends with, the next look finds no lock
	_, err = fmt.Fprintf(lock, "%d %s\n", cmd.Process.Pid, strings.ReplaceAll(d.Version, " ", "-"))
	return err
}

// Watch sees to it that netd runs as long as there is something to serve, until ctx ends.
func (d Directory) Watch(ctx context.Context, warn func(error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
		if len(d.Networks()) > 0 && !d.Running() {
			if err := d.Ensure(); err != nil {
				warn(err)
			}
		}
	}
}
