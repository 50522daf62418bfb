// Package box runs one container as processes: it starts, watches, freezes and
// ends it, runs commands in it and reads what it uses. The runtime is liblxc.
//
// It doesn't know what an instance, an image or a volume is: it is given a
// mounted root filesystem and limits.
package box

// #cgo pkg-config: lxc
// #include <lxc/version.h>
import "C"

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Version gives the version of liblxc that kiln was built with.
func Version() string { return C.LXC_VERSION }

// An IDMap says that Size ids from Container on are the host's ids from Host on,
// of users and of groups.
type IDMap struct{ Container, Host, Size uint32 }

// CPUs says which processors a container may use: a number of them, or a list
// as in cpuset(7). The zero value is all.
type CPUs struct {
	Count int
	Set   string
}

// Limits bound what a container may take. Zero means no bound.
type Limits struct {
	MemoryBytes         int64
	CPUs                CPUs
	CPUQuota, CPUPeriod int64 // microseconds of processor time per period
	Processes           int64
	CPUShare            int  // of busy processors, in percent of what others have; 0: 100
	MemorySoft          bool // more than MemoryBytes while the host has enough
	NoSwap              bool // cgroup v1 has that only beside MemoryBytes, not soft
	Disks               []DiskLimit
	KeepDisks           bool // SetLimits leaves what bounds the disks as it is
}

// A DiskLimit bounds the traffic of the container with one block device, in a second; 0: not.
type DiskLimit struct {
	Device                          string // "MAJOR:MINOR" of a whole disk
	ReadBytes, WriteBytes           int64
	ReadOperations, WriteOperations int64
}

// check refuses what this host can't bound. The error is Unsupported.
func (l Limits) check() error {
	if l.NoSwap && onV1("memory") && (l.MemoryBytes == 0 || l.MemorySoft) {
		return kiln.Errorf(kiln.Unsupported, "this host has cgroup v1, which can keep memory from being swapped only "+
			"beside a hard limit of memory: set limits.memory")
	}
	return nil
}

// A Spec says what container to start.
type Spec struct {
	ID       string            // unique on the host, names the cgroups: letters, digits and . _ -
	Hostname string            // inside
	Dir      string            // where the box keeps its files, made 0700
	Rootfs   *os.File          // a detached mount; used only while Start runs
	Init     string            // command line, default /sbin/init
	Arch     string            // canonical architecture of the programs
	IDMap    []IDMap           // nil: privileged, ids are the host's
	Nesting  bool              // containers in the container
	Env      map[string]string // of init
	Mounts   []Mount
	Devices  []Device // that it may use besides those that every container has
	Nics     []Nic
	Limits   Limits
	Seccomp  string   // the policy of system calls, in liblxc's format; "": kiln's
	Profile  string   // of AppArmor, loaded; "": liblxc makes one where AppArmor is on
	Config   []string // lines of lxc.container.conf(5), last
}

// A Box is a container that was running when it was last looked at.
type Box struct {
	dir   string
	state state
	bound time.Duration // of Kill; 0: killTime

	mu      sync.Mutex
	init    process
	monitor *process // nil: it died and left the container alone
	killed  bool
	asking  atomic.Bool // askSysvinit is under way
	logged  int64       // size of liblxc's log when init began
}

// state is what a box remembers on disk, for the next daemon.
type state struct {
	ID         string
	Halt       int // signal that asks init to stop
	Privileged bool
	RootUID    uint32 // of the container's root on the host
	Seccomp    string `json:",omitempty"` // its own policy
	Mounts     []staged
	Pairs      []string // the host's ends of the interfaces it was started with
	Init       identity
	Monitor    identity
	Dir        fileID // of the box; zero: written before there was this field
}

// staged is a mount that the container was started with, and that it has again after a
// reboot. Its number is its place in the list.
type staged struct{ Name, Target string }

// The files in a box's directory.
const (
	stateFile   = "box.json"
	configFile  = "lxc.conf"
	seccompFile = "seccomp.conf"
	logFile     = "lxc.log"
	consoleFile = "console.log"
)

// runDir is what liblxc knows as the path of its containers. Nothing is kept
// there; a container's root must be able to search it.
const runDir = "/run/kiln"

// rootfsDir is where each monitor mounts its root filesystem, in a mount
// namespace of its own: on the host the directory stays empty. The container's
// root needs access to all of its path, which a box's directory doesn't give. It
// is never removed, since that would unmount what is on it elsewhere.
const rootfsDir = runDir + "/rootfs"

// mountsDir is the same for what is bound into the container.
const mountsDir = runDir + "/mounts"

// pivotDir is where liblxc mounts the root filesystem for its container to enter. Its own is in
// a package that its library works without.
const pivotDir = runDir + "/pivot"

// linksDir has a symbolic link to the directory of each box, which is how liblxc knows it:
// the monitor of a container that reboots, and commands that begin, find it when it was
// moved meanwhile.
const linksDir = runDir + "/boxes"

func linkTo(id string) string { return filepath.Join(linksDir, id) }

// setLink leads to where a box is now.
func setLink(id, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	link := linkTo(id)
	if to, err := os.Readlink(link); err == nil && to == dir {
		return nil
	}
	next := link + ".new"
	if err := errors.Join(os.MkdirAll(linksDir, 0o700), os.RemoveAll(next), os.Symlink(dir, next)); err != nil {
		return err
	}
	// A monitor that finds no link any more, as one that ends last, makes a directory.
	if fi, err := os.Lstat(link); err == nil && fi.IsDir() {
		if err := os.RemoveAll(link); err != nil {
			return err
		}
	}
	return os.Rename(next, link)
}

// Open takes over a container that a former daemon started. The directory has the
// container's ID for its name. One whose record can't be read is found by its cgroups.
// The error is NotFound when it doesn't run any more; what it left behind is removed then.
// So it is, but nothing is removed, in a copy of the directory of one that runs.
func Open(dir string) (*Box, error) {
	b := &Box{dir: dir}
	data, err := disk.ReadFile(filepath.Join(dir, stateFile))
	if foreign(dir, data) {
		err := kiln.Errorf(kiln.NotFound, "the container of which %s is a copy isn't this one", dir)
		return nil, errors.Join(err, disk.RemoveAll(filepath.Join(dir, stateFile)))
	}
	if err != nil || json.Unmarshal(data, &b.state) != nil || b.state.ID == "" {
		if b.state = find(filepath.Base(dir)); b.state.ID == "" {
			err := kiln.Errorf(kiln.NotFound, "no container in %s", dir)
			return nil, errors.Join(err, disk.RemoveAll(filepath.Join(dir, stateFile)), clean(dir, filepath.Base(dir)))
		}
		b.state.Dir = idOf(dir)
		if b.save() != nil { // something else is in its place, or the disk is full: it is found again
			_ = disk.RemoveAll(filepath.Join(dir, stateFile))
			_ = b.save()
		}
	}
	if m, err := openProcess(b.state.Monitor); err == nil {
		b.monitor = &m
		if pid := awaitInit(m); pid != 0 {
			b.state.Init = identify(pid)
		}
	}
	b.logged = fileSize(filepath.Join(dir, logFile))
	b.init, err = openProcess(b.state.Init)
	if err != nil {
		b.init, err = b.findAgain()
	}
	if err != nil {
		err := kiln.Errorf(kiln.NotFound, "container %s doesn't run", b.state.ID)
		return nil, errors.Join(err, b.Close(), clean(dir, b.state.ID))
	}
	if err := setLink(b.state.ID, dir); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	// Commands get the policy that this kiln has, or the container's own, whatever became
	// of the file.
	path := filepath.Join(dir, seccompFile)
	policy := []byte(orElse(b.state.Seccomp, seccompPolicy))
	if has, err := disk.ReadFile(path); err != nil || !bytes.Equal(has, policy) {
		if err := errors.Join(disk.RemoveAll(path), os.WriteFile(path, policy, 0o600)); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

// findAgain finds the init of a container whose record names one that is gone, or none: who
// wrote it died before, or found no room on the disk.
func (b *Box) findAgain() (process, error) {
	found := find(b.state.ID)
	init, err := openProcess(found.Init)
	if err != nil {
		return init, err
	}
	b.state.Init = found.Init
	if b.monitor == nil {
		if m, err := openProcess(found.Monitor); err == nil {
			b.monitor, b.state.Monitor = &m, m.identity
		}
	}
	return init, nil
}

// betweenTime is how long a monitor may have no init when it is found: the container
// reboots, or has ended, which takes much less.
const betweenTime = 10 * time.Second

// awaitInit gives the init of a monitor, which may be about to start its next one; 0: it
// has none, and will not have one any more.
func awaitInit(monitor process) int {
	for begun := time.Now(); ; {
		pid := findInit(monitor.PID)
		if pid != 0 || monitor.waitFor(context.Background(), initPoll) || time.Since(begun) > betweenTime {
			return pid
		}
	}
}

// find gives what a record would say of a container that runs; the zero value when none
// does.
func find(id string) state {
	for _, pid := range inside(id) {
		proc := fmt.Sprintf("/proc/%d/", pid)
		if len(statusField(pid, "NSpid")) != 2 || !isInit(pid) { // or of a container within
			continue
		}
		ids, err := os.ReadFile(proc + "uid_map")
		var host uint32
		if _, serr := fmt.Sscanf(string(ids), "%d %d", new(uint32), &host); err != nil || serr != nil {
			continue
		}
		found := state{ID: id, Privileged: host == 0, RootUID: host, Init: identify(pid)}
		found.Halt = haltSignalOf(found.Init)
		var parent int
		if ppid := statusField(pid, "PPid"); len(ppid) == 1 && scan(ppid[0], "%d", &parent) && parent > 1 {
			found.Monitor = identify(parent)
		}
		return found
	}
	return state{}
}

// Close lets go of the container, which keeps running.
func (b *Box) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.monitor != nil {
		b.monitor.Close()
		b.monitor = nil
	}
	b.init.Close()
	b.init = process{} // its descriptor may be another file by now
	return nil
}

// InitPID gives the process id of init on the host; 0 after Close.
func (b *Box) InitPID() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.init.PID
}

// Life names the time since the container was started or rebooted last.
func (b *Box) Life() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%d-%d", b.state.Init.PID, b.state.Init.Start)
}

// dyingTime is how long the end of a container may take to be seen once something failed for
// it.
const dyingTime = 100 * time.Millisecond

// EndedSince reports whether the container ended or rebooted since it had a life, or is about
// to.
func (b *Box) EndedSince(life string) bool {
	if b.Life() != life {
		return true
	}
	b.mu.Lock()
	init, err := b.init.dup() // whoever waits for its end closes the box then
	b.mu.Unlock()
	if err != nil {
		return false
	}
	defer init.Close()
	return init.waitFor(context.Background(), dyingTime)
}

// Begun waits until the container is set up and its init runs: after a reboot that is a
// moment later than there is a process. The error is that of ctx, or Conflict when it ended.
func (b *Box) Begun(ctx context.Context) error {
	for {
		b.mu.Lock()
		init := b.init.PID
		b.mu.Unlock()
		setUp, err := forked(init) // it is a copy of its monitor until then
		switch {
		case err != nil:
			return kiln.Errorf(kiln.Conflict, "the container doesn't run any more")
		case !setUp:
			return nil
		}
		select {
		case <-time.After(initPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Privileged reports whether the container's ids are the host's.
func (b *Box) Privileged() bool { return b.state.Privileged }

// RootUID gives the id on the host of the container's root.
func (b *Box) RootUID() uint32 { return b.state.RootUID }

// ConsoleLog is the path of what the container wrote on its console.
func (b *Box) ConsoleLog() string { return filepath.Join(b.dir, consoleFile) }

// An EventKind says what happened to a container.
type EventKind int

// What can happen by itself.
const (
	Stopped  EventKind = iota // nothing of it is left
	Rebooted                  // it has a new init
)

// An Event is something that happened to a container.
type Event struct {
	Kind EventKind
	// Failed says of one that stopped why: it was to reboot, and liblxc couldn't start it
	// again. "": it wasn't.
	Failed string
	// Unsaved says of one that rebooted why its record couldn't be written, as on a full disk.
	// Open finds its new init all the same.
	Unsaved error
}

// How long a monitor may go on when its container has ended: then it starts no next
// one any more. One that was about to set up the next, after a reboot, when that was
// killed sometimes waits for it for ever.
const (
	hangTime   = 2 * time.Minute // where AppArmor is on and the host is busy, the next one takes its time
	killedTime = 3 * time.Second // after Kill
)

// Next waits for what happens next. After Stopped nothing happens. The error is
// that of ctx.
func (b *Box) Next(ctx context.Context) (Event, error) {
	b.mu.Lock()
	init, monitor := b.init, b.monitor
	b.mu.Unlock()
	if err := init.wait(ctx); err != nil {
		return Event{}, err
	}
	// Its monitor either ends as well or starts the next init.
	for ended := time.Now(); monitor != nil; {
		if pid := findInit(monitor.PID); pid != 0 && pid != init.PID {
			next, err := openProcess(identify(pid))
			if err == nil {
				return Event{Kind: Rebooted, Unsaved: b.replaceInit(next)}, nil
			}
		}
		if monitor.waitFor(ctx, initPoll) {
			break
		}
		if ctx.Err() != nil {
			return Event{}, ctx.Err()
		}
		if time.Since(ended) > b.monitorTime() {
			_ = monitor.signal(unix.SIGKILL)
			break
		}
	}
	// What can't be removed, such as a cgroup that somebody put a process of the
	// host into, is in the way of the next Start, which says so.
	_ = clean(b.dir, b.state.ID)
	return Event{Kind: Stopped, Failed: b.failedReboot()}, nil
}

func (b *Box) monitorTime() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.killed {
		return killedTime
	}
	return hangTime
}

func (b *Box) replaceInit(next process) error {
	boundLog(filepath.Join(b.dir, logFile))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.init.Close()
	b.init = next
	b.state.Init = next.identity
	b.logged = fileSize(filepath.Join(b.dir, logFile))
	return b.save()
}

func (b *Box) save() error {
	data, err := json.Marshal(b.state)
	if err != nil {
		return err
	}
	return disk.Rewrite(filepath.Join(b.dir, stateFile), 0o600, data)
}

// Shutdown asks init to stop the system. It doesn't wait.
func (b *Box) Shutdown(ctx context.Context) error {
	if unix.Signal(b.state.Halt) == unix.SIGPWR && b.asking.CompareAndSwap(false, true) {
		go func() {
			defer b.asking.Store(false)
			b.askSysvinit(context.WithoutCancel(ctx)) // if it is one
		}()
	}
	return b.signal(unix.Signal(b.state.Halt))
}

// killTime is how long the kernel may take to end the processes of a container.
const killTime = 10 * time.Second

// Kill ends every process of the container, also of a frozen one, and returns
// when init is gone. The error is Timeout when the kernel can't end it, as when a
// process waits for a disk or a network file system that doesn't answer: it says
// which does.
func (b *Box) Kill(ctx context.Context) error {
	b.mu.Lock()
	b.killed = true
	init, err := b.init.dup() // whoever waits for its end closes the box then
	b.mu.Unlock()
	if err != nil {
		return err
	}
	defer init.Close()
	if err := b.signal(unix.SIGKILL); err != nil {
		return err
	}
	_ = b.setDisks(nil) // a process ends when what it has under way with its disks is done
	bound := b.bound
	if bound == 0 {
		bound = killTime
	}
	waiting, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err = init.wait(waiting)
	if err == nil || ctx.Err() != nil || waiting.Err() == nil {
		return err
	}
	return kiln.Errorf(kiln.Timeout, "the kernel could not end the container within %v: %s", bound,
		stuck(append(inside(b.state.ID), init.PID)))
}

// Abort is Kill for a container that may be about to start, as after a reboot: its
// monitor, which would wait for an init that is gone, ends first.
func (b *Box) Abort(ctx context.Context) error {
	b.mu.Lock()
	if b.monitor != nil {
		_ = b.monitor.signal(unix.SIGKILL) // one that is gone already is as good
	}
	b.mu.Unlock()
	return b.Kill(ctx)
}

// endTime bounds how long End waits.
const endTime = 30 * time.Second

// End is Kill and Close of a container that nobody waits for. It returns when nothing is left
// of it, whatever becomes of ctx.
func (b *Box) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), endTime, kiln.Errorf(kiln.Timeout,
		"the container's monitor did not end within %v", endTime))
	defer cancel()
	err := b.Abort(ctx)
	for e := (Event{Kind: Rebooted}); err == nil && e.Kind != Stopped; {
		if e, err = b.Next(ctx); err != nil {
			err = context.Cause(ctx)
		}
	}
	return errors.Join(err, b.Close())
}

func (b *Box) signal(s unix.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.init.signal(s)
	if errors.Is(err, unix.ESRCH) {
		return nil // it is gone already
	}
	return err
}
