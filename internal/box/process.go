package box

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// An identity names a process so that a later one with its number isn't taken
// for it.
type identity struct {
	PID   int
	Start uint64 // since boot, in clock ticks: field 22 of proc_pid_stat(5)
}

// identify gives the identity of a process; the zero one when there is none.
func identify(pid int) identity {
	fields := statFields(pid)
	const startTime = 22 - 3
	if len(fields) <= startTime || fields[0] == "Z" {
		return identity{}
	}
	start, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return identity{}
	}
	return identity{pid, start}
}

// forked reports whether a process is a copy of another one still: it hasn't begun a program
// (PF_FORKNOEXEC of the kernel's include/linux/sched.h, in field 9 of proc_pid_stat(5)). That
// needs no look at the program's file, which may be of a file system that the container
// serves itself. The error is ESRCH when it is gone.
func forked(pid int) (bool, error) {
	fields := statFields(pid)
	const flags, notBegun = 9 - 3, 0x40
	if len(fields) <= flags || fields[0] == "Z" {
		return false, unix.ESRCH
	}
	n, err := strconv.ParseUint(fields[flags], 10, 32)
	return n&notBegun != 0, err
}

// statFields gives the fields of proc_pid_stat(5) from the third on, the first after the
// name; none when there is no such process.
func statFields(pid int) []string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

// A process is held by a pidfd, so that signals can't hit another one.
type process struct {
	identity
	fd int
}

// openProcess holds on to a process. The error is ESRCH when it is gone.
func openProcess(id identity) (process, error) {
	if id.PID == 0 {
		return process{}, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return process{}, err
	}
	if identify(id.PID) != id {
		unix.Close(fd)
		return process{}, unix.ESRCH
	}
	return process{id, fd}, nil
}

// Close lets go of the process.
func (p process) Close() {
	if p.PID != 0 {
		unix.Close(p.fd)
	}
}

// dup holds on to the same process once more.
func (p process) dup() (process, error) {
	if p.PID == 0 {
		return p, nil
	}
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	p.fd = fd
	return p, err
}

// InitProcess gives a pidfd of init, of the caller's own, and whether it has a user
// namespace of its own. The error is Conflict when it is gone.
func (b *Box) InitProcess() (init *os.File, mapped bool, err error) {
	init, _, err = b.holdInit()
	return init, !b.state.Privileged, err
}

// holdInit gives a pidfd of init, of the caller's own, and its number. The error is Conflict
// when it is gone.
func (b *Box) holdInit() (init *os.File, pid int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.init.PID == 0 {
		return nil, 0, kiln.Errorf(kiln.Conflict, "the container doesn't run any more")
	}
	p, err := b.init.dup()
	if err != nil {
		return nil, 0, err
	}
	return os.NewFile(uintptr(p.fd), "pidfd"), p.PID, nil
}

func (p process) signal(s unix.Signal) error {
	if p.PID == 0 {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(p.fd, s, nil, 0)
}

// wait returns nil when the process is gone, or the error of ctx. Each call has
// a file of its own, since a deadline ends all reads of a file.
func (p process) wait(ctx context.Context) error {
	if p.PID == 0 {
		return nil
	}
	own, err := p.dup()
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(own.fd), "pidfd")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(exited); err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return nil
}

// waitFor reports whether the process ends within d.
func (p process) waitFor(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return p.wait(ctx) == nil
}

// ended reports whether the process is gone, or has only to be reaped.
func (p process) ended() bool { return p.PID == 0 || exited(uintptr(p.fd)) }

// exited reports whether the process of a pidfd has ended: it is readable then.
func exited(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1
}

// initPoll is how often a monitor is asked for its next init after a reboot.
const initPoll = 5 * time.Millisecond

// stuck says of processes that don't end which they are and what they wait for in
// the kernel, as ps(1) does in STAT and WCHAN.
func stuck(pids []int) string {
	slices.Sort(pids)
	var list []string
	for _, pid := range slices.Compact(pids) {
		state := statusField(pid, "State")
		if len(state) == 0 || state[0] == "Z" {
			continue
		}
		name := strings.Join(statusField(pid, "Name"), " ")
		text := fmt.Sprintf("process %d (%.40q) is in state %s", pid, name, strings.Join(state, " "))
		at, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/wchan")
		if err == nil && len(at) > 0 && string(at) != "0" {
			text += " in " + string(at)
		}
		if list = append(list, text); len(list) == 5 {
			break
		}
	}
	if len(list) == 0 {
		return "its processes ended, but aren't reaped"
	}
	return strings.Join(list, "; ")
}

// waiting gives the threads of processes that wait in the kernel and can't be interrupted.
func waiting(pids []int) (list []int) {
	for _, pid := range pids {
		tasks, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task") // none of one that has ended
		for _, t := range tasks {
			tid, _ := strconv.Atoi(t.Name())
			if state := statusField(tid, "State"); len(state) > 0 && state[0] == "D" {
				list = append(list, tid)
			}
		}
	}
	return list
}

// findInit gives the child of a monitor that is the first process of a process
// namespace, 0 when there is none now.
func findInit(monitor int) int {
	children, err := os.ReadFile("/proc/" + strconv.Itoa(monitor) + "/task/" + strconv.Itoa(monitor) + "/children")
	if err != nil {
		return 0
	}
	for _, c := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(c)
		if err == nil && isInit(pid) {
			return pid
		}
	}
	return 0
}

func isInit(pid int) bool {
	ids := statusField(pid, "NSpid")
	return len(ids) > 1 && ids[len(ids)-1] == "1" && identify(pid).PID != 0
}

// statusField gives the words of one line of /proc/<pid>/status.
func statusField(pid int, name string) []string {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

// Peek holds on to the init of the container whose box is in a directory, also of one that
// rebooted since, and changes nothing there. It is for processes beside the daemon, which
// has the Box. The error is NotFound when no container runs.
func Peek(dir string) (init *os.File, pid int, err error) {
	var st state
	data, err := disk.ReadFile(filepath.Join(dir, stateFile))
	if err != nil || json.Unmarshal(data, &st) != nil {
		return nil, 0, kiln.Errorf(kiln.NotFound, "no container in %s", dir)
	}
	if m, err := openProcess(st.Monitor); err == nil {
		defer m.Close()
		if pid := findInit(m.PID); pid != 0 {
			st.Init = identify(pid)
		}
	}
	p, err := openProcess(st.Init)
	if err != nil {
		return nil, 0, kiln.Errorf(kiln.NotFound, "container %s doesn't run", st.ID)
	}
	return os.NewFile(uintptr(p.fd), "pidfd"), p.PID, nil
}
