package box

import (
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

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := b.Exec(ctx, ExecSpec{Command: []string{"/bin/true"}, TTY: true})
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
