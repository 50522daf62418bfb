package box

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLXCFS has containers see their limits, and start all the same when lxcfs is lost.
func TestLXCFS(t *testing.T) {
	was := lxcfsDir
	lxcfsDir = t.TempDir()
	t.Cleanup(func() { lxcfsDir = was })
	if err := os.Chmod(filepath.Dir(lxcfsDir), 0o755); err != nil { // a container's root has to come there
		t.Fatal(err)
	}
	if HasLXCFS(t.Context()) {
		t.Error("an empty directory is taken for lxcfs")
	}
	if err := unix.Mount("kiln-test", lxcfsDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(os.Mkdir(filepath.Join(lxcfsDir, "proc"), 0o755),
		os.WriteFile(filepath.Join(lxcfsDir, "proc/meminfo"), nil, 0o644))
	if err != nil || HasLXCFS(t.Context()) {
		t.Errorf("another file system is taken for lxcfs: %v", err)
	}
	if err := unix.Unmount(lxcfsDir, 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("lxcfs", "-f", "-p", filepath.Join(t.TempDir(), "pid"), lxcfsDir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = unix.Unmount(lxcfsDir, unix.MNT_DETACH)
	})
	for begun := time.Now(); !HasLXCFS(t.Context()); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatal("lxcfs doesn't begin")
		}
	}
	memory := func(b *Box) string {
		t.Helper()
		_, out := run(t, b, sh("grep MemTotal /proc/meminfo"))
		return strings.Join(strings.Fields(out), " ")
	}
	s := spec(t, busybox(t, ""))
	s.Limits = Limits{MemoryBytes: 64 << 20}
	b := start(t, s)
	if has := memory(b); has != "MemTotal: 65536 kB" {
		t.Errorf("%q", has)
	}
	if err := b.SetLimits(Limits{MemoryBytes: 96 << 20}); err != nil {
		t.Fatal(err)
	}
	if has := memory(b); has != "MemTotal: 98304 kB" {
		t.Errorf("after a change %q", has)
	}

	// One that is stopped answers nobody, and one that was killed says so.
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		for begun := time.Now(); HasLXCFS(t.Context()); {
			if time.Since(begun) > time.Minute {
				t.Fatal("lxcfs goes on after " + fmt.Sprint(signal))
			}
		}
		s := spec(t, busybox(t, ""))
		s.Limits = Limits{MemoryBytes: 64 << 20}
		if has := memory(start(t, s)); has == "" || has == "MemTotal: 65536 kB" {
			t.Errorf("after %v: %q", signal, has)
		}
	}
}

// TestLXCFSFiles shows containers files of lxcfs, and none of its directories below /proc.
func TestLXCFSFiles(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/proc/pressure", 0o755), os.MkdirAll(dir+"/sys/devices/system/cpu", 0o755),
		os.WriteFile(dir+"/proc/meminfo", nil, 0o644), os.Symlink("meminfo", dir+"/proc/link")); err != nil {
		t.Fatal(err)
	}
	if got := lxcfsFilesIn(dir); !slices.Equal(got, []string{"proc/meminfo", "sys/devices/system/cpu"}) {
		t.Errorf("%q", got)
	}
	if got := lxcfsFilesIn(filepath.Join(dir, "none")); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}
