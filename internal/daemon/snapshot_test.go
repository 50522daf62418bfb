package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

func snapshot(t testing.TB, d *Daemon, name, snap string) {
	t.Helper()
	o, err := d.CreateSnapshot(t.Context(), name, instance.NewSnapshot{Name: snap})
	wait(t, o, err)
}

func restore(t testing.TB, d *Daemon, name, snap string) {
	t.Helper()
	o, err := d.RestoreSnapshot(t.Context(), name, snap)
	wait(t, o, err)
}

func setState(t testing.TB, d *Daemon, name, action string) {
	t.Helper()
	o, err := d.SetInstanceState(t.Context(), name, action, 0, true)
	wait(t, o, err)
}

// TestSnapshotOfBusyInstance takes snapshots while the instance writes a number to
// one file, and then to another. At any one moment the two differ by one at most.
func TestSnapshotOfBusyInstance(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	if code, out := run(t, d, "c1", "(i=0; while :; do i=$((i+1)); echo $i > /root/x; echo $i > /root/y; done) "+
		">/dev/null 2>&1 </dev/null & sleep 0.1"); code != 0 {
		t.Fatal(out)
	}
	for i := range 5 {
		snapshot(t, d, "c1", fmt.Sprint("s", i))
		if c, err := d.Instance(t.Context(), "c1"); c.Status != instance.Running || err != nil {
			t.Errorf("it is %v, %v", c.Status, err)
		}
	}
	last := 0
	for i := range 5 {
		name := fmt.Sprint("copy", i)
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Start: true,
			Source: Source{Type: "copy", Instance: fmt.Sprint("c1/s", i)}})
		wait(t, o, err)
		_, out := run(t, d, name, "echo $(cat /root/x) $(cat /root/y)")
		var x, y int
		if n, _ := fmt.Sscan(out, &x, &y); n == 1 && strings.Count(out, "\n") == 1 {
			y = x // one of the two was just being written, and is empty
		}
		if x != y && x != y+1 || x < last || x == 0 {
			t.Errorf("snapshot %d has %q", i, out)
		}
		last = x
		o, err = d.SetInstanceState(t.Context(), name, "stop", 0, true)
		wait(t, o, err)
	}
	// It is killed for a restore, and runs again; what wrote is gone.
	restore(t, d, "c1", "s4")
	_, out := run(t, d, "c1", "ls /root/x")
	if c, _ := d.Instance(t.Context(), "c1"); c.Status != instance.Running || !strings.Contains(out, "/root/x") {
		t.Errorf("%v %q", c.Status, out)
	}
}

// TestCopyOfRunningInstance is as a snapshot of one, and a copy of that.
func TestCopyOfRunningInstance(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	run(t, d, "c1", "echo text > /root/x; chown 5:5 /root/x; rm /etc/os-release; mv /etc/started /etc/moved")
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c2", Start: true,
		Source: Source{Type: "copy", Instance: "c1"}})
	wait(t, o, err)
	if _, out := run(t, d, "c2", "cat /root/x; stat -c %u:%g /root/x; ls /etc/os-release; cat /etc/hostname"); !strings.HasPrefix(out, "text\n5:5\n") ||
		!strings.Contains(out, "No such file") || !strings.HasSuffix(out, "c2\n") {
		t.Errorf("%q", out)
	}
}

// TestPausedStaysPaused when a snapshot is taken of it.
func TestPausedStaysPaused(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	setState(t, d, "c1", "freeze")
	snapshot(t, d, "c1", "s0")
	if c, err := d.Instance(t.Context(), "c1"); c.Status != instance.Frozen || err != nil {
		t.Errorf("it is %v, %v", c.Status, err)
	}
}

// TestDaemonDiesWhileItHolds an instance still: the next one lets it go on.
func TestDaemonDiesWhileItHolds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	boxes, err := filepath.Glob(filepath.Join(dir, "boxes", "*"))
	if err != nil || len(boxes) != 1 {
		t.Fatal(boxes, err)
	}
	b, err := box.Open(boxes[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(boxes[0], "held"), nil, 0o600), b.Freeze(t.Context()),
		b.Close()); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	if c, err := d.Instance(t.Context(), "c1"); c.Status != instance.Running || err != nil {
		t.Errorf("it is %v, %v", c.Status, err)
	}
	if code, out := run(t, d, "c1", "true"); code != 0 {
		t.Error(out)
	}

	// The host goes down while it is held: that doesn't wait any longer than the instance may take.
	if _, err := d.UpdateInstance(t.Context(), "c1", func(i instance.Instance) (instance.Config, error) {
		i.Config.Options["boot.host_shutdown_timeout"] = "1"
		return i.Config, nil
	}); err != nil {
		t.Fatal(err)
	}
	resume, err := d.instances.HoldAll(t.Context(), []db.Name{{Project: project.Default, Name: "c1"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := resume(); err != nil {
		t.Error(err)
	}
	if c, err := d.Instance(t.Context(), "c1"); c.Status != instance.Stopped || c.Options["volatile.last_state.power"] !=
		"RUNNING" || err != nil {
		t.Errorf("after the shutdown it is %v, %v", c, err)
	}
}

// TestEphemeralIsRestored although it stops for that.
func TestEphemeralIsRestored(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "e1", Start: true, Source: Source{Type: "image", Alias: "bb"},
		Config: instance.Config{Ephemeral: true}})
	wait(t, o, err)
	snapshot(t, d, "e1", "s0")
	restore(t, d, "e1", "s0")
	if c, err := d.Instance(t.Context(), "e1"); !c.Ephemeral || c.Status != instance.Running || err != nil {
		t.Errorf("%+v, %v", c, err)
	}
	o, err = d.SetInstanceState(t.Context(), "e1", "stop", 0, true)
	wait(t, o, err)
	if _, err := d.Instance(t.Context(), "e1"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if names, err := d.pool.Snapshots(); len(names) != 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
}

// TestKeepSnapshots is what happens every minute.
func TestKeepSnapshots(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"},
		Config: instance.Config{
			Options: map[string]string{"snapshots.schedule": "* * * * *", "snapshots.schedule.stopped": "true",
				"snapshots.expiry": "30M"}}})
	wait(t, o, err)
	start := time.Now()
	for i := range 3 {
		d.keepSnapshots(start.Add(time.Duration(i)*time.Minute), start.Add(time.Duration(i+1)*time.Minute))
	}
	if list, err := d.Snapshots(t.Context(), "c1"); len(list) != 3 || err != nil {
		t.Errorf("%d snapshots, %v", len(list), err)
	}
	for i, n := range []int{3, 0} {
		at := time.Duration(20+i*40) * time.Minute
		d.keepSnapshots(start.Add(2*at), start.Add(at)) // nothing is due
		if list, err := d.Snapshots(t.Context(), "c1"); len(list) != n || err != nil {
			t.Errorf("%d snapshots after %v, %v", len(list), at, err)
		}
	}
}

// BenchmarkStart starts an instance that nobody took snapshots of, and one of which
// 200 were taken, each after it had run and changed something.
func BenchmarkStart(b *testing.B) {
	d := fresh(b)
	wait(b, importFiles(b, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(b)), nil)
	for _, name := range []string{"none", "many"} {
		o, err := d.CreateInstance(b.Context(), CreateSpec{Name: name, Source: Source{Type: "image", Alias: "bb"}})
		wait(b, o, err)
	}
	for i := range 200 {
		setState(b, d, "many", "start")
		p, err := d.Exec(b.Context(), "many", box.ExecSpec{Command: []string{"sh", "-c", fmt.Sprintf("echo %d > /etc/n%d; "+
			"echo x > /root/x", i, i)}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
		p.Close()
		setState(b, d, "many", "stop")
		snapshot(b, d, "many", fmt.Sprint("s", i))
	}
	for _, name := range []string{"none", "many"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				setState(b, d, name, "start")
				b.StopTimer()
				setState(b, d, name, "stop")
				b.StartTimer()
			}
		})
	}
	b.Run("snapshot", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			setState(b, d, "none", "start")
			setState(b, d, "none", "stop")
			b.StartTimer()
			snapshot(b, d, "none", fmt.Sprint("s", i))
		}
	})
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			restore(b, d, "none", "s0")
		}
	})
	b.Run("snapshot-running", func(b *testing.B) {
		setState(b, d, "none", "start")
		for i := 0; b.Loop(); i++ {
			snapshot(b, d, "none", fmt.Sprint("r", i))
		}
	})
}
