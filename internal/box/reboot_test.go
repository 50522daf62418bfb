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

// TestFailedReboot has a process in the cgroup that the next monitor is to make: the reboot
// fails, and who watches hears why.
func TestFailedReboot(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	dir := filepath.Join(unified(), monitorCgroup, b.state.ID, "other")
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(other.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
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
