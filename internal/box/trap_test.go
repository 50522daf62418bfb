package box

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestTrap has a container that serves file systems of its own, and doesn't answer: where
// terminals are made, where sysvinit has its pipe, and where init is. Nothing of that keeps
// this process, and all that waits for it ends with the container.
func TestTrap(t *testing.T) {
	tree := busybox(t, "")
	build := exec.Command("go", "build", "-o", tree+"/bin/trap", "./testdata/trap")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := spec(t, tree)
	fuse := filepath.Join(t.TempDir(), "fuse") // the host's own may be closed to others
	if err := errors.Join(unix.Mknod(fuse, unix.S_IFCHR, int(unix.Mkdev(10, 229))), os.Chmod(fuse, 0o666)); err != nil {
		t.Fatal(err)
	}
	s.Mounts = []Mount{{Source: fuse, Target: "/dev/trap", Device: true}}
	s.Devices = []Device{{Major: 10, Minor: 229}}
	s.Dir = filepath.Join(t.TempDir(), s.ID) // found by that
	var asking sync.WaitGroup
	t.Cleanup(asking.Wait) // when the container has ended
	b := start(t, s)
	run(t, b, sh("setsid trap /dev/trap /traps /dev/pts /run /sbin >/tmp/log 2>&1 </dev/null &"))
	eventually(t, "the trap is set", func() bool {
		_, out := run(t, b, sh("ls /traps/set || cat /tmp/log"))
		if strings.Contains(out, "invalid") || strings.Contains(out, "denied") {
			t.Fatal(out)
		}
		return out == "/traps/set\n"
	})

	run(t, b, sh("cat /run/x >/dev/null 2>&1 </dev/null &"))
	late := kiln.Errorf(kiln.Timeout, "it took too long")
	var err error
	eventually(t, "a process waits in the trap, and can't be frozen", func() bool {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second/2, late)
		defer cancel()
		if err = b.Freeze(ctx); err == nil { // it isn't there yet
			err = b.Thaw(t.Context())
		}
		return err != nil
	})
	if !errors.Is(err, late) || kiln.KindOf(err) != kiln.Timeout || !strings.Contains(err.Error(), "cat") {
		t.Errorf("one that waits in the trap is frozen: %v", err)
	}
	if err := b.Thaw(t.Context()); err != nil || b.Frozen() {
		t.Errorf("after the freeze that failed: frozen %v, %v", b.Frozen(), err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = b.Exec(ctx, ExecSpec{Command: []string{"/bin/true"}, TTY: true})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a terminal in the trap: %v", err)
	}
	asked := make(chan struct{})
	asking.Go(func() {
		defer close(asked)
		b.askSysvinit(context.Background())
	})
	if err := b.Begun(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(b.dir, stateFile)); err != nil {
		t.Fatal(err)
	}
	again, err := Open(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.state.Halt != int(unix.SIGPWR) {
		t.Errorf("of an init that nobody can see, the signal is %d", again.state.Halt)
	}
	eventually(t, "no thread waits for the container", func() bool {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			pid, _ := strconv.Atoi(task.Name())
			if state := statusField(pid, "State"); len(state) > 0 && state[0] == "D" {
				return false
			}
		}
		return true
	})
	select {
	case <-asked:
		t.Error("the trap let go of the question of its init")
	default:
	}
	again.Close()
}

// TestFreezeUnseen has no cgroups in /sys, as under "ip netns exec": nobody can tell then that the
// container is gone.
func TestFreezeUnseen(t *testing.T) {
	const inner = "KILN_TEST_UNSEEN"
	if os.Getenv(inner) == "" {
		cmd := exec.Command("unshare", "--mount", "sh", "-c",
			`umount -R /sys/fs/cgroup && exec "$0" -test.v -test.run '^TestFreezeUnseen$'`,
			"/proc/"+strconv.Itoa(os.Getpid())+"/exe")
		cmd.Env = append(os.Environ(), inner+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	b := &Box{state: state{ID: "unseen"}}
	for _, f := range []func(context.Context) error{b.Freeze, b.Thaw} {
		if err := f(t.Context()); !errors.Is(err, kiln.Unsupported) || !strings.Contains(err.Error(), "ip netns exec") {
			t.Error(err)
		}
	}
}

// TestFreezeGone has a container end while it is frozen and let go on.
func TestFreezeGone(t *testing.T) {
	b := &Box{state: state{ID: "gone-" + strconv.Itoa(os.Getpid())}}
	gone := func(when string) {
		t.Helper()
		if err := b.Freeze(t.Context()); !errors.Is(err, kiln.Conflict) {
			t.Errorf("%s: Freeze: %v", when, err)
		}
		if err := b.Thaw(t.Context()); err != nil {
			t.Errorf("%s: Thaw: %v", when, err)
		}
	}
	gone("before")
	dir := filepath.Join(unified(), payloadCgroup, b.state.ID)
	for range 200 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var removing sync.WaitGroup
		removing.Go(func() {
			if err := unix.Rmdir(dir); err != nil {
				t.Error(err)
			}
		})
		for _, f := range []func(context.Context) error{b.Freeze, b.Thaw} {
			if err := f(t.Context()); err != nil && !errors.Is(err, kiln.Conflict) {
				t.Error(err)
			}
		}
		removing.Wait()
	}
	gone("after")
}
