package daemon

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestFullDisk has instances on a disk that somebody fills: what happens to them is followed
// all the same, and they can be stopped, started and changed.
func TestFullDisk(t *testing.T) {
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{{"truncate", "-s", "400M", img}, {"mkfs.xfs", "-q", img}, {"mount", "-o", "loop", img, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	t.Cleanup(func() {
		err := errors.Join(os.RemoveAll(filepath.Join(dir, "kiln")), unix.Unmount(dir, 0))
		for begun := time.Now(); err != nil && time.Since(begun) < 10*time.Second; err = unix.Unmount(dir, 0) {
			time.Sleep(10 * time.Millisecond) // until what serves the network sees that its directory is gone
		}
		if err != nil {
			t.Error(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
	})
	d, ctx := open(t, filepath.Join(dir, "kiln")), t.Context()
	t.Cleanup(func() { end(t, d) })
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	if err := d.CreateVolume(ctx, "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	launch(t, d, "c1", "bb")
	device := map[string]string{"type": "disk", "pool": "default", "source": "data", "path": "/srv"}
	update := func(devices map[string]map[string]string) error {
		_, err := d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
			i.Devices = devices
			return i.Config, nil
		})
		return err
	}
	if err := update(map[string]map[string]string{"data": device}); err != nil {
		t.Fatal(err)
	}
	if code, out := run(t, d, "c1", "echo 1 > /srv/file"); code != 0 {
		t.Fatal(out)
	}
	fills := 0
	fill := func() {
		t.Helper()
		for _, size := range []int{1 << 20, 1 << 16, 1 << 12} {
			for ; ; fills++ {
				err := os.WriteFile(filepath.Join(dir, "fill"+strconv.Itoa(fills)), make([]byte, size), 0o600)
				if errors.Is(err, unix.ENOSPC) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	fill()

	// A device is changed, or stays where it is.
	moved := map[string]string{"type": "disk", "pool": "default", "source": "data", "path": "/data"}
	at := "/data/file"
	if err := update(map[string]map[string]string{"data": moved}); err != nil {
		at = "/srv/file"
	}
	if code, out := run(t, d, "c1", "cat "+at); code != 0 || out != "1\n" {
		t.Errorf("the volume is away: %d %q", code, out)
	}
	// It can be removed.
	fill()
	if err := update(nil); err != nil {
		t.Error(err)
	}
	if code, out := run(t, d, "c1", "grep -e /srv -e /data /proc/mounts"); code != 1 {
		t.Errorf("the volume is there: %q", out)
	}

	// A reboot is followed, a stop doesn't wait for what is gone, and a start is seen.
	fill()
	i, err := d.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	state, err := d.InstanceState(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	id := i.Options[instance.UUIDKey]
	if err := os.Remove(filepath.Join(d.cfg.Dir, "boxes", id, "box.json")); err != nil { // it could be written over
		t.Fatal(err)
	}
	fill()
	run(t, d, "c1", "reboot -f & sleep 10")
	eventually(t, func() bool {
		now, err := d.InstanceState(ctx, "c1")
		return err == nil && now.PID != 0 && now.PID != state.PID
	})
	fill()
	stopping, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := d.instances.Stop(stopping, "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	fill()
	err = d.instances.Start(ctx, "c1")
	now, gerr := d.Instance(ctx, "c1")
	if runs := len(box.Processes(id)) > 0; gerr != nil || runs != (now.Status == instance.Running) ||
		runs != (err == nil) {
		t.Errorf("%v; it runs: %v, and is %v", err, runs, now.Status)
	}
	if err == nil {
		err = d.instances.Stop(stopping, "c1", 0, true)
	}
	if err != nil && kiln.KindOf(err) != kiln.NoSpace {
		t.Error(err)
	}
	o, err := d.DeleteInstance(ctx, "c1")
	wait(t, o, err)
}

// TestUnseenProcesses has processes of an instance run of which the daemon doesn't know:
// nobody works with the files that they may write.
func TestUnseenProcesses(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	if err := d.CreateVolume(ctx, "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	devices := map[string]map[string]string{"d": {"type": "disk", "pool": "default", "source": "data", "path": "/d"}}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "x", Source: Source{Type: "none"},
		Config: instance.Config{Devices: devices}})
	wait(t, o, err)
	i, err := d.Instance(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	o, err = d.CreateSnapshot(ctx, "x", instance.NewSnapshot{Name: "s"})
	wait(t, o, err)
	backups, err := d.InstanceBackups(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	cgroup := "/sys/fs/cgroup"
	if _, err := os.Stat(cgroup + "/cgroup.procs"); err != nil {
		cgroup += "/unified"
	}
	cgroup = filepath.Join(cgroup, "kiln.payload", i.Options[instance.UUIDKey])
	unseen := exec.Command("sleep", "1000")
	if err := errors.Join(os.MkdirAll(cgroup, 0o755), unseen.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		unseen.Process.Kill()
		unseen.Wait()
		for range 100 {
			if os.Remove(cgroup) == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		_ = os.Remove(filepath.Dir(cgroup)) // unless others use it
	}()
	if err := os.WriteFile(cgroup+"/cgroup.procs", []byte(strconv.Itoa(unseen.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	for verb, begin := range map[string]func() (*op.Operation, error){
		"snapshot": func() (*op.Operation, error) { return d.CreateSnapshot(ctx, "x", instance.NewSnapshot{Name: "t"}) },
		"restore":  func() (*op.Operation, error) { return d.RestoreSnapshot(ctx, "x", "s") },
		"copy": func() (*op.Operation, error) {
			return d.CreateInstance(ctx, CreateSpec{Name: "y", Source: Source{Type: "copy", Instance: "x"}})
		},
		"publish": func() (*op.Operation, error) { return d.PublishImage(ctx, PublishSpec{From: "x"}) },
		"export":  func() (*op.Operation, error) { return backups.Create(ctx, NewBackup{Name: "b"}) },
		"rename":  func() (*op.Operation, error) { return d.RenameInstance(ctx, "x", "y") },
		"delete":  func() (*op.Operation, error) { return d.DeleteInstance(ctx, "x") },
		"volume":  func() (*op.Operation, error) { return d.CreateVolumeSnapshot(ctx, "data", NewVolumeSnapshot{}) },
	} {
		o, err := begin()
		if err == nil {
			err = o.Wait(ctx).Err
		}
		if !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), strconv.Itoa(unseen.Process.Pid)) {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
