package box

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// startTime is how long a container may take to start, with all that is done for it: where
// liblxc makes an AppArmor profile for it and the host is busy, that takes its time.
const startTime = 2 * time.Minute

// monitorTime is how long kiln-monitor may take of that until it says that init runs: liblxc makes
// namespaces and cgroups, mounts what there is, and runs hooks. Tests have less.
var monitorTime = 105 * time.Second

// Start starts a container. It returns when its init runs.
// Errors: Unsupported when the host can't, Conflict when it runs already, Timeout.
func Start(ctx context.Context, s Spec) (*Box, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, kiln.Errorf(kiln.Timeout,
		"the container did not start within %v", startTime))
	defer cancel()
	if err := errors.Join(os.MkdirAll(s.Dir, 0o700), os.MkdirAll(rootfsDir, 0o755),
		os.MkdirAll(mountsDir, 0o755), os.MkdirAll(pivotDir, 0o755)); err != nil {
		return nil, err
	}
	if pids := inside(s.ID); len(pids) > 0 {
		return nil, kiln.Errorf(kiln.Conflict, "container %s runs already, with files that aren't in %s, as when these were "+
			"copied while it ran; stop that one first", s.ID, s.Dir)
	}
	if err := clean(s.Dir, s.ID); err != nil {
		return nil, err
	}
	b := &Box{dir: s.Dir, state: state{ID: s.ID, Seccomp: s.Seccomp, Halt: haltSignal(s.Rootfs),
		Privileged: len(s.IDMap) == 0, Dir: idOf(s.Dir)}}
	if len(s.IDMap) > 0 {
		b.state.RootUID = s.IDMap[0].Host
	}
	if b.state.Privileged { // it may make device nodes, of which its cgroup says which work
		if err := unix.MountSetattr(int(s.Rootfs.Fd()), "", unix.AT_EMPTY_PATH,
			&unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NODEV}); err != nil {
			return nil, fmt.Errorf("let device nodes work in a privileged container: %w", err)
		}
	}
	files, kinds, err := openMounts(ctx, &s)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, m := range s.Mounts {
		b.state.Mounts = append(b.state.Mounts, staged{m.Name, m.Target})
	}
	for _, n := range s.Nics {
		if n.Kind == Pair {
			b.state.Pairs = append(b.state.Pairs, n.HostName)
		}
	}
	clearPairs(ctx, s)
	if err := writeConfig(s, kinds, b.state.Halt, lxcfsFiles(ctx)); err != nil {
		return nil, err
	}
	// Written before there is anything to find, so that whoever finds the
	// directory knows what to look for.
	if err := b.save(); err != nil {
		return nil, err
	}
	starting, err := lockTops(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer starting.Close()
	console := fileSize(b.ConsoleLog())
	err = b.launch(ctx, append([]*os.File{s.Rootfs}, files...), kinds, console)
	if err == nil {
		err = b.setDisks(s.Limits.Disks)
	}
	if err == nil {
		err = b.settle(ctx, console)
	}
	if err == nil {
		err = b.save() // or nobody would know of it
	}
	if err != nil {
		return nil, errors.Join(err, b.Close(), clean(s.Dir, s.ID))
	}
	return b, nil
}

const (
	settleTime = time.Second           // when an init that still runs has begun
	idleTime   = 50 * time.Millisecond // when one that waits for something has
)

// settle waits until init has begun its work: it has a child, or it waits for
// something, or it still runs after a second. One that ends before is an error, with
// what was on the console from some place on.
func (b *Box) settle(ctx context.Context, console int64) error {
	pid := b.init.PID
	for begin := time.Now(); ctx.Err() == nil; {
		if b.init.waitFor(ctx, 2*time.Millisecond) {
			if b.monitor != nil && b.monitor.waitFor(ctx, settleTime) || b.monitor == nil {
				return b.early(console)
			}
			return nil // it has a monitor, which starts the next one
		}
		took := time.Since(begin)
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		state := statusField(pid, "State")
		if len(children) > 0 || took > settleTime || took > idleTime && len(state) > 0 && state[0] == "S" {
			return nil
		}
	}
	return context.Cause(ctx)
}

// early is the error for an init that ended at once.
func (b *Box) early(console int64) error {
	for end := time.Now().Add(settleTime); time.Now().Before(end) && len(members(monitorCgroup, b.state.ID)) > 0; {
		time.Sleep(5 * time.Millisecond) // the monitor writes what was on the console
	}
	lines := tail(b.ConsoleLog(), console, 5)
	text := "init ended right after it was started"
	switch {
	case len(lines) > 0:
		text += "; the last lines of its console:\n  " + strings.Join(lines, "\n  ")
	default:
		text += " and wrote nothing on its console"
	}
	if strings.Contains(strings.Join(lines, " "), "Too many open files") {
		limit, _ := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
		text += fmt.Sprintf("\nthe containers of this host may have used up fs.inotify.max_user_instances (%s): raise it "+
			"with sysctl -w fs.inotify.max_user_instances=8192", bytes.TrimSpace(limit))
	}
	return kiln.Errorf(kiln.Conflict, "%s", text)
}

// tail gives the last lines of a file from some place on, without what would move a
// terminal's cursor.
func tail(path string, from int64, most int) []string {
	f, err := disk.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	size := fileSize(path)
	if size < from {
		from = 0 // it was rotated
	}
	const bytes = 8 << 10
	text, err := io.ReadAll(io.NewSectionReader(f, max(from, size-bytes), bytes))
	if err != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(escapes.ReplaceAllString(string(text), "")) {
		line = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return -1
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-most):]
}

// escapes are the sequences of ECMA-48 that terminals act on.
var escapes = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])")

// openMounts opens what is mounted in the container. What is optional and absent is
// dropped from s. kinds is as kiln-monitor wants.
func openMounts(ctx context.Context, s *Spec) (files []*os.File, kinds string, err error) {
	var present []Mount
	for _, m := range s.Mounts {
		t, err := m.open(ctx)
		if m.Optional && errors.Is(err, kiln.NotFound) {
			continue
		}
		if err != nil {
			return files, "", err
		}
		files = append(files, t.File)
		kinds += t.kind
		if m.Target, err = resolve(s.Rootfs, m.Target); err != nil {
			return files, "", kiln.Errorf(kiln.Conflict, "%s: path in the instance: %w", m.what(), err)
		}
		present = append(present, m)
	}
	s.Mounts = present
	return files, kinds, nil
}

// launch runs kiln-monitor, which leaves liblxc's daemon behind.
func (b *Box) launch(ctx context.Context, mounts []*os.File, kinds string, console int64) error {
	if err := linkPrograms(); err != nil {
		return err
	}
	boundLog(filepath.Join(b.dir, logFile))
	clearWay(filepath.Join(b.dir, consoleFile)) // the monitor bounds it
	logEnd := fileSize(filepath.Join(b.dir, logFile))
	answer, err := runHelper(ctx, "kiln-monitor", nil, mounts,
		rootfsDir, mountsDir, kinds, runDir, b.state.ID, filepath.Join(b.dir, configFile))
	if err != nil {
		return err
	}
	defer answer.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, monitorTime, kiln.Errorf(kiln.Timeout,
		"after %v liblxc hasn't said that the container runs: a mount, a cgroup or a hook that it waits for may hang; see "+
			"the log, with kiln info --show-log, and dmesg, then start it again", monitorTime))
	defer cancel()
	var pid int
	line, err := answer.line(ctx)
	if err != nil {
		return err
	}
	if scan(line, "pid %d", &pid) && pid <= 0 {
		return errors.Join(b.early(console), answer.waitFor(ctx))
	}
	if pid == 0 {
		return kiln.Errorf(kiln.Internal, "%s%s (see %s)", orElse(line, "the monitor died"), b.reason(logEnd),
			filepath.Join(b.dir, logFile))
	}
	if err := answer.waitFor(ctx); err != nil {
		return err
	}
	if b.init, err = openProcess(identify(pid)); err != nil {
		return b.early(console)
	}
	b.state.Init = b.init.identity
	b.logged = fileSize(filepath.Join(b.dir, logFile))
	if parent := statusField(pid, "PPid"); len(parent) == 1 {
		var ppid int
		if scan(parent[0], "%d", &ppid) {
			if m, err := openProcess(identify(ppid)); err == nil {
				b.monitor, b.state.Monitor = &m, m.identity
			}
		}
	}
	return nil
}

func scan(line, format string, value *int) bool {
	_, err := fmt.Sscanf(line, format, value)
	return err == nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

var logError = regexp.MustCompile(`(?m) ERROR +(\S+) - [^:]+:[^:]+:\d+ - (.*)$`)

// reason finds what liblxc complained about first since its log had a size. What its
// functions for everything say names nothing, but who called them does.
func (b *Box) reason(since int64) string {
	all := logError.FindAllSubmatch(b.logSince(since), 2)
	if len(all) > 1 && string(all[0][1]) == "utils" {
		all = all[1:]
	}
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.TrimRight(string(all[0][2]), ": ")
}

func (b *Box) logSince(since int64) []byte {
	f, err := disk.Open(filepath.Join(b.dir, logFile))
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, since, 1<<20))
	if err != nil {
		return nil
	}
	return text
}

// startError is what liblxc logs of a start that fails: of a container that runs, the one
// that its reboot is.
var startError = regexp.MustCompile(`(?m) ERROR +start - [^:]+:(?:__lxc_start|lxc_spawn):\d+ - `)

// failedReboot says why liblxc didn't start a container again that was to reboot; "": it
// wasn't to.
func (b *Box) failedReboot() string {
	b.mu.Lock()
	killed, since := b.killed, b.logged
	b.mu.Unlock()
	if killed || !startError.Match(b.logSince(since)) {
		return ""
	}
	return strings.TrimPrefix(b.reason(since), ": ")
}

// A helper is one of the C programs under way. It answers in lines.
type helper struct {
	cmd    *exec.Cmd
	status *os.File
	rest   []byte

	reap   sync.Once
	reaped chan struct{} // closed when the process is gone
	end    error         // what it ended with, then
}

// runHelper starts one of the C programs of this binary. The request is what it
// reads first; files become its descriptors from 5 on.
func runHelper(ctx context.Context, name string, stdio []*os.File, files []*os.File, request ...string) (*helper,
	error) {
	ask, asked, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ask.Close()
	defer asked.Close()
	status, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer tell.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{name}
	cmd.Env = []string{programsPath}
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{ask, tell}, files...)
	for i, f := range stdio {
		switch i {
		case 0:
			cmd.Stdin = f
		case 1:
			cmd.Stdout = f
		case 2:
			cmd.Stderr = f
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, status.Close())
	}
	h := &helper{cmd: cmd, status: status, reaped: make(chan struct{})}
	_, err = io.WriteString(asked, strings.Join(request, "\x00")+"\x00")
	if err := errors.Join(err, ctx.Err()); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), h.Close())
	}
	return h, nil
}

// line reads the next line of the answer, "" at its end. When ctx ends the helper is
// killed, and the error is its cause.
func (h *helper) line(ctx context.Context) (string, error) {
	defer context.AfterFunc(ctx, func() {
		_ = h.cmd.Process.Kill()
		_ = h.status.SetReadDeadline(time.Unix(1, 0))
	})()
	line, err := h.read()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return line, err
}

func (h *helper) read() (string, error) {
	for {
		if i := bytes.IndexByte(h.rest, '\n'); i >= 0 {
			line := string(h.rest[:i])
			h.rest = h.rest[i+1:]
			return line, nil
		}
		var buf [512]byte
		n, err := h.status.Read(buf[:])
		h.rest = append(h.rest, buf[:n]...)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return "", err
		}
	}
}

// wait waits for the end of the process, whose files nobody else needs.
func (h *helper) wait() error {
	h.reap.Do(func() {
		h.end = h.cmd.Wait()
		close(h.reaped)
	})
	return h.end
}

// waitFor is wait that ends with ctx, whose cause is its error then.
func (h *helper) waitFor(ctx context.Context) error {
	go h.wait()
	select {
	case <-h.reaped:
		return h.end
	case <-ctx.Done():
		_ = h.cmd.Process.Kill()
		return context.Cause(ctx)
	}
}

// leaveTime is how long Close waits for a helper that is about to end.
const leaveTime = 5 * time.Second

// Close lets go of a helper, and reaps it if nobody has. One that waits in the kernel for the
// container ends when that does, and isn't waited for.
func (h *helper) Close() error {
	go h.wait()
	late := time.NewTimer(leaveTime)
	defer late.Stop()
	select {
	case <-h.reaped:
	case <-late.C:
	}
	return h.status.Close()
}
