package box

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// small mounts a small file system where a box is to be.
func small(t *testing.T, s Spec, options string) {
	t.Helper()
	dir := filepath.Dir(s.Dir)
	if err := unix.Mount("kiln", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func fill(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// TestRebootOnFullDisk reboots a container whose record can't be written then: it is
// watched as before, and the next daemon finds it.
func TestRebootOnFullDisk(t *testing.T) {
	s := spec(t, busybox(t, ""))
	s.Dir = filepath.Join(filepath.Dir(s.Dir), s.ID)
	small(t, s, "size=1m")
	b := start(t, s)
	path := filepath.Join(s.Dir, stateFile)
	for _, lost := range []bool{false, true} { // there is room in a record, and none for another one
		if lost {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, s.Dir)
		before := b.InitPID()
		run(t, b, sh("reboot -f & sleep 10"))
		e, err := b.Next(t.Context())
		if err != nil || e.Kind != Rebooted || errors.Is(e.Unsaved, unix.ENOSPC) != lost || b.InitPID() == before {
			t.Fatalf("%+v, %v", e, err)
		}
		if err := b.Begun(t.Context()); err != nil {
			t.Fatal(err)
		}
		next, err := Open(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if next.InitPID() != b.InitPID() {
			t.Errorf("found %d, it is %d", next.InitPID(), b.InitPID())
		}
		if code, out := run(t, next, sh("hostname")); code != 0 || out != "guest\n" {
			t.Errorf("%d %q", code, out)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOldRecord has a record from before a container was started, or rebooted: the container
// is found by its cgroups.
func TestOldRecord(t *testing.T) {
	s := spec(t, busybox(t, ""))
	s.Dir = filepath.Join(filepath.Dir(s.Dir), s.ID)
	b := start(t, s)
	old := Box{dir: b.dir, state: b.state}
	for _, init := range []identity{{}, {PID: 1 << 21, Start: 1}} {
		old.state.Init, old.state.Monitor = init, identity{}
		if err := old.save(); err != nil {
			t.Fatal(err)
		}
		next, err := Open(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		if next.state.Init != b.state.Init || next.state.Monitor != b.state.Monitor {
			t.Errorf("%+v, want %+v", next.state, b.state)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestStartOnFullDisk: of what was launched, and can't be written down, nothing is left.
func TestStartOnFullDisk(t *testing.T) {
	s := spec(t, busybox(t, ""))
	small(t, s, "size=1m")
	hook := filepath.Join(t.TempDir(), "hook") // the disk gets full while the container starts
	if err := os.WriteFile(hook, fmt.Appendf(nil, "#!/bin/sh\nrm -f %[1]s/%[2]s\ncat /dev/zero >%[1]s/fill\nexit 0\n", s.Dir,
		stateFile), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Config = append(s.Config, "lxc.hook.pre-start = "+hook)
	b, err := Start(t.Context(), s)
	if err == nil {
		end(t, b)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if pids := Processes(s.ID); len(pids) > 0 {
		t.Errorf("it runs: %v", pids)
		_ = clean(s.Dir, s.ID)
	}
	checkGone(t, &Box{dir: s.Dir, state: state{ID: s.ID}})
}

// TestEnd ends a container, and one that reboots just then: nothing is left.
func TestEnd(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		b, err := Start(t.Context(), spec(t, busybox(t, "")))
		if err != nil {
			t.Fatal(err)
		}
		if reboot {
			run(t, b, sh("reboot -f & sleep 10"))
		}
		if err := b.End(t.Context()); err != nil {
			t.Error(err)
		}
		checkGone(t, b)
	}
}
