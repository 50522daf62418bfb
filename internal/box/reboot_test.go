package box

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// putInto has a process of the host in a cgroup.
func putInto(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill() })
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(other.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return other
}

// TestRebootEmpties has a process in the cgroups of a container that doesn't end with its
// init, as one that is about to enter it: the reboot comes first.
func TestRebootEmpties(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	var others []*exec.Cmd
	for _, h := range hierarchies() {
		if dir := filepath.Join(h, payloadCgroup, b.state.ID); unix.Access(dir, unix.F_OK) == nil &&
			filepath.Base(h) != "cpuset" { // which takes none before it has processors
			others = append(others, putInto(t, filepath.Join(dir, "other")))
		}
	}
	run(t, b, sh("reboot -f & sleep 10"))
	if e, err := b.Next(t.Context()); err != nil || e != (Event{Kind: Rebooted}) {
		t.Fatalf("%+v, %v", e, err)
	}
	for _, o := range others {
		if err := o.Wait(); err == nil {
			t.Error("a process has ended by itself")
		}
	}
	end(t, b)
}

// TestFailedReboot has a process in the cgroup that the next monitor is to make: the reboot
// fails, and who watches hears why.
func TestFailedReboot(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	other := putInto(t, filepath.Join(unified(), monitorCgroup, b.state.ID, "other"))
	defer other.Wait()
	defer other.Process.Kill()
	run(t, b, sh("reboot -f & sleep 10"))
	if e, err := b.Next(t.Context()); err != nil || e.Kind != Stopped || e.Failed == "" {
		t.Errorf("%+v, %v", e, err)
	} else {
		t.Log(e.Failed)
	}
	checkGone(t, b)
}

// TestTopsStay: what all containers share stays while one runs, which makes its cgroups in
// it anew when it reboots; and goes when none does.
func TestTopsStay(t *testing.T) {
	a, b := start(t, spec(t, busybox(t, ""))), start(t, spec(t, busybox(t, "")))
	pivot := filepath.Join(unified(), pivotCgroup)
	if err := os.Mkdir(pivot, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	end(t, a)
	if err := unix.Access(pivot, unix.F_OK); err != nil {
		t.Errorf("a container that may reboot any time runs: %v", err)
	}
	run(t, b, sh("poweroff -f & sleep 10"))
	if e, err := b.Next(t.Context()); err != nil || e != (Event{Kind: Stopped}) {
		t.Errorf("%+v, %v", e, err)
	}
	checkGone(t, b)
}

// TestNetworkOfReboot looks at the interfaces of a container while it reboots: those of the
// host, which its init has for a moment, are never among them.
func TestNetworkOfReboot(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	looked := make(chan string, 1)
	stop := make(chan bool)
	go func() {
		defer close(looked)
		for {
			list, err := b.Network(t.Context())
			if err != nil {
				looked <- err.Error()
				return
			}
			if len(list) != 1 || list[0].Name != "lo" { // it has no other, and the host has
				looked <- fmt.Sprintf("%+v", list)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 5 {
		run(t, b, sh("reboot -f & sleep 10"))
		if e, err := b.Next(t.Context()); err != nil || e.Kind != Rebooted {
			t.Errorf("%+v, %v", e, err)
			break
		}
		if err := b.Begun(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if wrong, ok := <-looked; ok {
		t.Error(wrong)
	}
}
