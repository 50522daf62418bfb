// Package sibling runs this binary as a process beside the daemon, which outlives it and
// serves what it is told by the files of a directory.
//
// It doesn't know what such a process serves.
package sibling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
)

// Nobody is the user that siblings are.
const Nobody = 65534

// The descriptors that a sibling is started with.
const (
	dirFD  = 3
	lockFD = 4
)

// A Sibling is one such process, whether it runs or not.
type Sibling struct {
	Program      string    // the name that this binary is run with
	Short        string    // the name of its lock and its log: "netd"
	Path         string    // the directory that it is told by; anybody may read what is there
	Version      string    // of this program; a sibling of another one is replaced
	Capabilities []uintptr // that it has, though it is nobody
	Env          []string
}

// version is how the lock names the version.
func (s Sibling) version() string { return strings.ReplaceAll(s.Version, " ", "-") }

func (s Sibling) lockFile() string { return filepath.Join(s.Path, s.Short+".lock") }

// Write writes a file of the directory whole, and has the sibling look. It returns when
// that is written, and a sibling runs.
func (s Sibling) Write(name string, b []byte) error {
	if err := errors.Join(disk.MkdirAll(s.Path, 0o755), os.Chmod(s.Path, 0o755)); err != nil {
		return err
	}
	path := filepath.Join(s.Path, name)
	if old, err := disk.ReadFile(path); err != nil || !bytes.Equal(old, b) {
		if err := disk.WriteUnsynced(path, 0o644, b); err != nil { // it is written again after a power cut
			return err
		}
	}
	return s.Ensure()
}

// Remove removes a file of the directory, and has the sibling look.
func (s Sibling) Remove(name string) error {
	err := os.Remove(filepath.Join(s.Path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if p := s.running(); p != nil {
		err = errors.Join(err, p.Signal(syscall.SIGWINCH), p.Release())
	}
	return err
}

// Ensure has a sibling of this version run, and tells it to look again.
func (s Sibling) Ensure() error {
	if p := s.running(); p != nil {
		defer p.Release()
		b, _ := disk.ReadFile(s.lockFile())
		if f := strings.Fields(string(b)); len(f) == 2 && f[1] == s.version() {
			return p.Signal(syscall.SIGWINCH)
		}
		if err := s.end(p); err != nil {
			return err
		}
	}
	return s.start()
}

// Running reports whether there is a sibling.
func (s Sibling) Running() bool {
	p := s.running()
	if p == nil {
		return false
	}
	return p.Release() == nil
}

// running gives the process that holds the lock; nil: none does. What the file says about it
// is only a hint: a process that doesn't have the lock where a sibling has it is another one.
func (s Sibling) running() *os.Process {
	f, err := disk.Open(s.lockFile())
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
	lock, err := f.Stat()
	if err != nil {
		return nil
	}
	// Whoever starts one has the lock just before it is there.
	for end := time.Now().Add(2 * time.Second); held() && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var pid int
		b := make([]byte, 64)
		n, _ := f.ReadAt(b, 0)
		if _, err := fmt.Sscan(string(b[:n]), &pid); err == nil && pid > 0 {
			if p := s.process(pid, lock); p != nil {
				return p
			}
		}
		all, _ := disk.Glob("/proc", "[0-9]*")
		for _, path := range all {
			if pid, err := strconv.Atoi(filepath.Base(path)); err == nil {
				if p := s.process(pid, lock); p != nil {
					return p
				}
			}
		}
	}
	return nil
}

// process gives a process by its number, if it is a sibling that has the lock; nil: it isn't.
func (s Sibling) process(pid int, lock fs.FileInfo) *os.Process {
	p, err := os.FindProcess(pid) // held from here on: no other one gets its number
	if err != nil {
		return nil
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	args, err := os.ReadFile(proc + "cmdline")
	name, _, _ := strings.Cut(string(args), "\x00")
	has, serr := os.Stat(fmt.Sprint(proc, "fd/", lockFD))
	if err != nil || serr != nil || name != s.Program || !os.SameFile(has, lock) {
		_ = p.Release()
		return nil
	}
	return p
}

// endTime is how long a sibling may take to end.
const endTime = 5 * time.Second

func (s Sibling) end(p *os.Process) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for end := time.Now().Add(endTime); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		q := s.running()
		if q == nil {
			return nil
		}
		another := q.Pid != p.Pid // which somebody has started since
		_ = q.Release()
		if another {
			return nil
		}
	}
	return p.Kill()
}

// Stop ends the sibling, if there is one.
func (s Sibling) Stop() error {
	p := s.running()
	if p == nil {
		return nil
	}
	return errors.Join(s.end(p), p.Release())
}

// start runs a sibling. It is given its directory and its lock, since it may not open
// them.
func (s Sibling) start() error {
	lock, err := disk.OpenFile(s.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
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
	dir, err := disk.OpenDir(s.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	log, err := disk.OpenFile(filepath.Join(s.Path, s.Short+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := lock.Truncate(0); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{s.Program}
	cmd.Env = append([]string{}, s.Env...)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{dir, lock}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody},
		AmbientCaps: s.Capabilities}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Program, err)
	}
	go func() { _ = cmd.Wait() }() // whatever it ends with, the next look finds no lock
	_, err = fmt.Fprintf(lock, "%d %s\n", cmd.Process.Pid, s.version())
	return err
}

// Watch sees to it that a sibling runs as long as it is needed, until ctx ends.
func (s Sibling) Watch(ctx context.Context, needed func() bool, warn func(error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
		if needed() && !s.Running() {
			if err := s.Ensure(); err != nil {
				warn(err)
			}
		}
	}
}

// Serve is a sibling: it calls look at first, when it is told to, and every two seconds,
// until it gets SIGTERM or its directory is gone.
func Serve(look func(root *os.Root)) error {
	log.SetFlags(log.LstdFlags | log.LUTC)
	syscall.CloseOnExec(dirFD)
	syscall.CloseOnExec(lockFD)
	lock := os.NewFile(lockFD, "lock") // held until the end
	defer lock.Close()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dirFD))
	if err != nil {
		return err
	}
	defer root.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// It does nothing to a process that doesn't wait for it yet.
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGWINCH)
	for first := true; ctx.Err() == nil; first = false {
		look(root)
		if first {
			shrink()
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-time.After(2 * time.Second): // also what could not be served a moment ago
			if fi, err := root.Stat("."); err != nil || gone(fi) {
				return nil
			}
		}
	}
	return nil
}

// gone reports whether a directory was removed.
func gone(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}
