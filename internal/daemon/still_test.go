package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk/disktest"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// initOf gives the init of an instance that runs.
func initOf(t *testing.T, d *Daemon, name string) int {
	t.Helper()
	i, err := d.Instance(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	f, pid, err := box.Peek(filepath.Join(d.cfg.Dir, "boxes", i.Options[instance.UUIDKey]))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return pid
}

// status gives a field of a process's status.
func status(pid int, field string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// TestKillWhileRebooting kills an instance between two lives: its monitor is held up when the
// first has ended, and then begins the next.
func TestKillWhileRebooting(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	pid := initOf(t, d, "c1")
	var monitor int
	if _, err := fmt.Sscan(status(pid, "PPid"), &monitor); err != nil || monitor < 2 {
		t.Fatal(monitor, err)
	}
	if code, out := run(t, d, "c1", "(sleep 0.5; reboot -f) >/dev/null 2>&1 </dev/null & exit 0"); code != 0 {
		t.Fatal(out)
	}
	if err := syscall.Kill(monitor, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(monitor, syscall.SIGCONT)
	eventually(t, func() bool { return strings.HasPrefix(status(pid, "State"), "Z") })
	stopped := make(chan error, 1)
	go func() { stopped <- d.instances.Stop(ctx, "c1", 0, true) }()
	select {
	case err := <-stopped:
		t.Fatalf("it ended without its monitor: %v", err)
	case <-time.After(300 * time.Millisecond): // it has killed what there was; else it is easier
	}
	if err := syscall.Kill(monitor, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if i, err := d.Instance(ctx, "c1"); err != nil || i.Status != instance.Stopped {
		t.Errorf("%v, %v", i.Status, err)
	}
}

// TestCantStandStill has a process in an instance that nothing stops: what needs it to stand
// still says so within its bound, and the instance goes on.
func TestCantStandStill(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	d.instances.HoldTime = 200 * time.Millisecond
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.Mkdir(silent, 0o700); err != nil {
		t.Fatal(err)
	}
	let := disktest.Silent(t, silent)
	defer let()
	late := exec.Command("cat", filepath.Join(silent, "x"))
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = late.Process.Kill(), late.Wait() }()
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", initOf(t, d, "c1")))
	if err != nil {
		t.Fatal(err)
	}
	_, path, ok := strings.Cut(string(cgroups), "0::")
	path, _, _ = strings.Cut(path, "\n")
	join := func(top string) error {
		return os.WriteFile(filepath.Join(top, path, "cgroup.procs"), []byte(fmt.Sprint(late.Process.Pid)), 0)
	}
	if err := join("/sys/fs/cgroup/unified"); !ok || err != nil && join("/sys/fs/cgroup") != nil {
		t.Fatalf("%q: %v", cgroups, err)
	}
	eventually(t, func() bool { // until it waits
		err := d.instances.Freeze(ctx, "c1")
		return err != nil || d.instances.Thaw(ctx, "c1") != nil
	})
	for verb, f := range map[string]func() error{
		"pause":    func() error { return d.instances.Freeze(ctx, "c1") },
		"snapshot": func() error { return d.instances.CreateSnapshot(ctx, "c1", instance.NewSnapshot{Name: "s0"}) },
		"hold": func() error {
			_, err := d.instances.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "c1"}}, false)
			return err
		},
	} {
		err := f()
		if !errors.Is(err, kiln.Timeout) || !strings.Contains(err.Error(), "did not stand still within 200ms") {
			t.Errorf("%s: %v", verb, err)
		}
		if i, err := d.Instance(ctx, "c1"); err != nil || i.Status != instance.Running {
			t.Errorf("after %s it is %v, %v", verb, i.Status, err)
		}
	}
	if list, err := d.Snapshots(ctx, "c1"); err != nil || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestHeldTooLong has a mark of the last daemon that can't be removed: the instance is taken
// over all the same.
func TestHeldTooLong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	i, err := d.Instance(t.Context(), "c1")
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(dir, "boxes", i.Options[instance.UUIDKey], "held/full")
	if err := os.MkdirAll(mark, 0o700); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	if code, out := run(t, d, "c1", "echo alive"); code != 0 || out != "alive\n" {
		t.Errorf("%d %q", code, out)
	}
}
