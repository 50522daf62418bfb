// Package files serves the files of a container by SFTP, from a process that is root of
// the container and nothing else: what is in there is out to do harm, and neither a
// symbolic link nor a device, nor whoever finds a fault in this code, can reach more
// than the container's root can anyway. The kernel confines it, not a check of paths.
//
// The process, the helper, is this same binary. It ends with whoever started it. The
// package doesn't know what an instance is, nor when its files may be touched.
package files

import "C" // enter.c: its constructor runs in every binary that has this package

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// helperName is what a binary is started as to be the helper.
const helperName = "kiln-files"

// StallTime is how long one call of the kernel may take in the helper. A file system
// that a container serves itself, by FUSE, may never answer.
const StallTime = 30 * time.Second

// IdleTime is how long a helper waits for the next connection.
const IdleTime = 10 * time.Second

const (
	beginTime       = 30 * time.Second // how long a helper may take to begin
	endTime         = 5 * time.Second  // how long Close waits for the kernel to end one
	mostConnections = 64               // of one helper
)

// A Helper serves the files of one container. It ends by itself when it was idle.
type Helper struct {
	cmd     *exec.Cmd
	control *net.UnixConn
	done    chan struct{} // closed when the process is gone

	mu    sync.Mutex
	conns map[*conn]struct{}
	idle  *time.Timer
	cause error // why it ended, or is about to

	idleTime time.Duration
}

// Options say how long a helper waits; zero is as long as usual.
type Options struct{ Stall, Idle time.Duration }

// Join makes a helper in the namespaces of a process, which a pidfd names. mapped says
// that it has a user namespace of its own. Errors: Conflict when the process is gone.
func Join(ctx context.Context, process *os.File, mapped bool, o Options) (*Helper, error) {
	return start(ctx, "join", mapped, o, process)
}

// Enter makes a helper whose root directory is a mount that isn't attached anywhere. ids
// is the user namespace that the mount's ids are mapped by, nil if they are not.
func Enter(ctx context.Context, tree, ids *os.File, o Options) (*Helper, error) {
	place, err := os.MkdirTemp("", "kiln-files-") // it stays empty in everybody's sight but the helper's
	if err != nil {
		return nil, err
	}
	defer os.Remove(place)
	if ids != nil {
		return start(ctx, place, true, o, ids, tree)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return start(ctx, place, false, o, null, tree)
}

func start(ctx context.Context, where string, mapped bool, o Options, files ...*os.File) (*Helper, error) {
	ours, theirs, err := pair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if o.Stall == 0 {
		o.Stall = StallTime
	}
	if o.Idle == 0 {
		o.Idle = IdleTime
	}
	ids := "host"
	if mapped {
		ids = "mapped"
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{helperName, where, ids, o.Stall.String(), "serve"}
	cmd.Env = []string{"GOMEMLIMIT=64MiB", "GOTRACEBACK=none"}
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	theirs.Close()
	h := &Helper{cmd: cmd, control: ours, done: make(chan struct{}), conns: map[*conn]struct{}{},
		idleTime: o.Idle}
	if err := h.begun(ctx); err != nil {
		h.end(err)
		go h.watch(true)
		return nil, err
	}
	h.idle = time.AfterFunc(o.Idle, h.endIdle)
	go h.watch(false)
	return h, nil
}

// pair makes two connected sockets, ours and one to hand on.
func pair(kind int) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	f := os.NewFile(uintptr(fds[0]), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c.(*net.UnixConn), theirs, nil
}

// begun waits for a helper's first word.
func (h *Helper) begun(ctx context.Context) error {
	if err := h.control.SetReadDeadline(time.Now().Add(beginTime)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = h.control.SetReadDeadline(time.Unix(1, 0)) })()
	word, err := h.word()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return kiln.Errorf(kiln.Timeout, "the process that serves the files did not begin within %v", beginTime)
	case word == "":
		return kiln.Errorf(kiln.Internal, "the process that serves the files died")
	case word != wordReady:
		text := strings.TrimPrefix(word, "error ")
		kind := kiln.Internal
		if strings.Contains(text, unix.ESRCH.Error()) {
			kind = kiln.Conflict
		}
		return kiln.Errorf(kind, "%s", text)
	}
	return h.control.SetReadDeadline(time.Time{})
}

// word reads what a helper says; "" at its end.
func (h *Helper) word() (string, error) {
	var buf [1024]byte
	n, err := h.control.Read(buf[:])
	return string(buf[:max(n, 0)]), err
}

// watch waits for the end of a helper, or for its last word.
func (h *Helper) watch(ended bool) {
	if !ended {
		word, _ := h.word()
		what, stalled := strings.CutPrefix(word, wordStalled)
		if stalled {
			h.end(kiln.Errorf(kiln.Timeout, "a file system in the container doesn't answer: %q takes more than is waited for",
				what))
		} else {
			h.end(kiln.Errorf(kiln.Internal, "the process that serves the files died"))
		}
	}
	_ = h.cmd.Wait()
	close(h.done)
}

// end ends a helper, whatever it does, and all connections. The first reason is the one
// that is told.
func (h *Helper) end(why error) {
	h.mu.Lock()
	if h.cause == nil {
		h.cause = why
	}
	conns := h.conns
	h.conns = map[*conn]struct{}{}
	h.mu.Unlock()
	_ = h.cmd.Process.Kill()
	_ = h.control.Close()
	for c := range conns {
		_ = c.UnixConn.Close()
	}
}

var errIdle = errors.New("nobody used it")

func (h *Helper) endIdle() {
	h.mu.Lock()
	idle := len(h.conns) == 0
	if idle && h.cause == nil {
		h.cause = errIdle
	}
	h.mu.Unlock()
	if idle {
		h.end(errIdle)
	}
}

// Ended reports whether a helper can't be used any more.
func (h *Helper) Ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause != nil
}

// Close ends the helper and everything under way in it, whose error is why. It returns
// when nothing of the container is in use any more.
// The error is Timeout when the kernel can't end the process.
func (h *Helper) Close(why error) error {
	h.end(why)
	select {
	case <-h.done:
		return nil
	case <-time.After(endTime):
		return kiln.Errorf(kiln.Timeout, "the kernel could not end process %d, which serves files, within %v",
			h.cmd.Process.Pid, endTime)
	}
}

// Pause stops the process until the function that it gives is called: nothing it does goes
// on meanwhile. The error is Timeout when the kernel doesn't stop it, which is as if it
// hadn't been called.
func (h *Helper) Pause() (resume func(), err error) {
	resume = func() { _ = h.cmd.Process.Signal(unix.SIGCONT) } // one that ended needs none
	if err := h.cmd.Process.Signal(unix.SIGSTOP); errors.Is(err, os.ErrProcessDone) {
		return resume, nil
	}
	for end := time.Now().Add(endTime); time.Now().Before(end) && !h.Ended(); time.Sleep(time.Millisecond) {
		if stopped(h.cmd.Process.Pid) {
			return resume, nil
		}
	}
	if h.Ended() {
		return resume, nil
	}
	resume()
	return nil, kiln.Errorf(kiln.Timeout, "the kernel could not stop process %d, which serves files, within %v",
		h.cmd.Process.Pid, endTime)
}

// stopped reports whether no thread of a process runs any more.
func stopped(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // it ended
		}
		// The state comes after the name, which is in parentheses.
		if i := bytes.LastIndexByte(b, ')'); i < 0 || len(b) < i+3 || !bytes.ContainsRune([]byte("TtZX"), rune(b[i+2])) {
			return false
		}
	}
	return true
}

// A conn is one connection to a helper.
type conn struct {
	*net.UnixConn
	h *Helper
}

// Dial gives a connection that speaks SFTP version 3. Errors: Busy, and why the helper
// ended.
func (h *Helper) Dial() (net.Conn, error) {
	ours, theirs, err := pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c := &conn{ours, h}
	h.mu.Lock()
	switch {
	case h.cause != nil:
		err = h.cause
	case len(h.conns) >= mostConnections:
		err = kiln.Errorf(kiln.Busy, "%d connections use the files already, as many as may; try again later",
			mostConnections)
	default:
		h.conns[c] = struct{}{}
		h.idle.Stop()
	}
	h.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	_ = h.control.SetWriteDeadline(time.Now().Add(beginTime))
	if _, _, err := h.control.WriteMsgUnix([]byte{0}, unix.UnixRights(int(theirs.Fd())), nil); err != nil {
		return nil, errors.Join(c.why(err), c.Close())
	}
	return c, nil
}

// lastWordTime is how long the last word of a helper may take, whose connections are lost
// in the same moment.
const lastWordTime = time.Second

// why gives the reason for which a helper ended as that of an error, if it has ended.
func (c *conn) why(err error) error {
	select {
	case <-c.h.done:
	case <-time.After(lastWordTime):
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.h.cause == nil {
		return err
	}
	return c.h.cause
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.h.mu.Lock()
	delete(c.h.conns, c)
	if len(c.h.conns) == 0 && c.h.cause == nil {
		c.h.idle.Reset(c.h.idleTime)
	}
	c.h.mu.Unlock()
	return c.UnixConn.Close()
}
