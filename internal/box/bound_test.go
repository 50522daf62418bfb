package box

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestKillStuck has an init that not even SIGKILL ends, since it writes to a file
// system that stands still: Kill gives up, and says who waits and for what.
func TestKillStuck(t *testing.T) {
	dir := t.TempDir()
	at, img := filepath.Join(dir, "at"), filepath.Join(dir, "img")
	for _, args := range [][]string{{"truncate", "-s", "64M", img}, {"mkfs.ext4", "-q", img}, {"mkdir", at},
		{"mount", "-o", "loop", img, at}, {"chmod", "777", at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	fs, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	thaw := func() { _ = unix.IoctlSetInt(int(fs.Fd()), 0xc0045878, 0) } // FITHAW
	t.Cleanup(func() {
		thaw()
		fs.Close()
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	tree := busybox(t, "")
	script := "#!/bin/sh\nwhile :; do echo x > /mnt/f; sleep 0.02; done\n"
	if err := errors.Join(os.WriteFile(tree+"/sbin/stuck", []byte(script), 0o755), os.Chmod(tree+"/sbin/stuck", 0o755)); err != nil {
		t.Fatal(err)
	}
	one := spec(t, tree)
	one.Init, one.Mounts = "/sbin/stuck", []Mount{{Source: at, Target: "/mnt"}}
	b, err := Start(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	b.bound = 300 * time.Millisecond
	eventually(t, "init writes", func() bool { _, err := os.Stat(at + "/f"); return err == nil })
	if err := unix.IoctlSetInt(int(fs.Fd()), 0xc0045877, 0); err != nil { // FIFREEZE
		t.Fatal(err)
	}
	pid := b.InitPID()
	eventually(t, "init waits for the file system", func() bool { return statusField(pid, "State")[0] == "D" })
	err = b.Kill(t.Context())
	if !errors.Is(err, kiln.Timeout) || !strings.Contains(err.Error(), strconv.Itoa(pid)) ||
		!strings.Contains(err.Error(), "state D") {
		t.Errorf("%v", err)
	}
	thaw()
	end(t, b)
}

// TestKillHungMonitor has a monitor that doesn't notice that its init ended: after Kill
// it isn't waited for as long as after an end that may be a reboot.
func TestKillHungMonitor(t *testing.T) {
	b, err := Start(t.Context(), spec(t, busybox(t, "")))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.monitor.signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	end(t, b) // in less than hangTime
}

// TestMonitorHasABound has liblxc wait for a hook that doesn't end: a start is given up, says what to
// look at, and leaves nothing.
func TestMonitorHasABound(t *testing.T) {
	was := monitorTime
	monitorTime = 2 * time.Second
	t.Cleanup(func() { monitorTime = was })
	s, dir := spec(t, busybox(t, "")), t.TempDir()
	hook := filepath.Join(dir, "hook")
	script := fmt.Sprintf("#!/bin/sh\ntouch %[1]s/begun\nwhile [ -e %[1]s/begun ]; do sleep 0.1; done\n", dir)
	if err := os.WriteFile(hook, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Config = append(s.Config, "lxc.hook.pre-start = "+hook)
	b, err := Start(t.Context(), s)
	if err == nil {
		end(t, b)
	}
	if !errors.Is(err, kiln.Timeout) || !strings.Contains(err.Error(), monitorTime.String()) ||
		!strings.Contains(err.Error(), "kiln info --show-log") {
		t.Error(err)
	}
	if pids := Processes(s.ID); len(pids) > 0 {
		t.Errorf("%d processes are left", len(pids))
	}
}

// TestForeignProcess puts a process of the host into a cgroup of the container. When
// that ends, its end is told all the same.
func TestForeignProcess(t *testing.T) {
	b, err := Start(t.Context(), spec(t, busybox(t, "")))
	if err != nil {
		t.Fatal(err)
	}
	foreign := exec.Command("sleep", "1000")
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	defer foreign.Wait()
	defer foreign.Process.Kill()
	procs := filepath.Join(controllerDir("memory", b.state.ID), "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(foreign.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if e, err := b.Next(ctx); err != nil || e.Kind != Stopped {
		t.Errorf("%+v, %v", e, err)
	}
	_ = foreign.Process.Kill()
	_ = foreign.Wait()
	if err := errors.Join(b.Close(), clean(b.dir, b.state.ID)); err != nil {
		t.Error(err)
	}
}

// TestUnreadableRecord opens boxes after a power cut, which leaves records that are
// empty or half: nothing runs, and nothing of it keeps a daemon from starting.
func TestUnreadableRecord(t *testing.T) {
	for _, content := range []string{"", "{", `{"ID":`, "null", "{}"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, kiln.NotFound) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestExecInherits nothing of what the process that runs a command has open.
func TestExecInherits(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	fd, err := unix.Open("/etc", unix.O_RDONLY|unix.O_DIRECTORY, 0) // not close-on-exec, as what a shell hands on
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, out := run(t, b,
		sh("for f in /proc/self/fd/*; do [ ${f##*/} -gt 2 ] && [ -d $f/. ] && echo $f; done; echo end")); out != "end\n" {
		t.Errorf("the command has %q", out)
	}
}

// TestExecRefuses what can't be handed to a command.
func TestExecRefuses(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	for name, s := range map[string]ExecSpec{
		"nothing":     {},
		"empty":       {Command: []string{""}},
		"NUL":         {Command: []string{"echo", "a\x00b"}},
		"NUL in cwd":  {Command: []string{"true"}, Cwd: "/\x00tmp"},
		"NUL in env":  {Command: []string{"true"}, Env: map[string]string{"A": "b\x00c"}},
		"name of env": {Command: []string{"true"}, Env: map[string]string{"A=B": "c"}},
		"no user":     {Command: []string{"id"}, UID: math.MaxUint32},
		"no group":    {Command: []string{"id"}, GID: math.MaxUint32},
	} {
		if p, err := b.Exec(t.Context(), s); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				p.Close()
			}
		}
	}
}

// TestEarlyEnd starts what ends at once, or can't begin: that is an error, with what
// the console says. What goes on is none, whatever it does.
func TestEarlyEnd(t *testing.T) {
	tree := busybox(t, "")
	write := func(name, script string) {
		if err := os.WriteFile(tree+"/sbin/"+name, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel hands on what is written to a console in its own time, and the monitor, which
	// liblxc is, waits for nothing once init has ended.
	const work = "; while [ $((n += 1)) -lt 5000 ]; do :; done; exit 1"
	write("fails", "printf '\\033[31mno disk\\033[0m\\n' >/dev/console"+work)
	write("limit", "echo 'Failed to allocate manager object: Too many open files' >/dev/console"+work)
	write("silent", "exit 0")
	for name, want := range map[string][]string{
		"fails": {"right after", "\n  no disk"}, "limit": {"max_user_instances", "sysctl"}, "silent": {"wrote nothing"},
		"missing": {"/sbin/missing"},
	} {
		s := spec(t, tree)
		s.Init = "/sbin/" + name
		b, err := Start(t.Context(), s)
		if err == nil {
			t.Errorf("%s: it is told as started", name)
			end(t, b)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in %q", name, part, err)
			}
		}
		if pids := inside(s.ID); len(pids) > 0 {
			t.Errorf("%s: processes %v are left", name, pids)
		}
	}
	for _, init := range []string{"/bin/sleep 1000", "/sbin/init"} {
		s := spec(t, tree)
		s.Init = init
		start(t, s)
	}
}
