package daemon

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestTreeLostInPowerCut starts what stands on a tree that a power cut caught on its
// way to the disk: it is made again, also for a copy and for a publish.
func TestTreeLostInPowerCut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	run(t, d, "c1", "echo mine > /root/x; sync")
	if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	cut := func() {
		t.Helper()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		trees, err := filepath.Glob(filepath.Join(dir, "volumes", "images", "*"))
		if err != nil || len(trees) == 0 {
			t.Fatal(trees, err)
		}
		for _, tree := range trees {
			if err := os.WriteFile(filepath.Join(tree, "unsynced"), []byte("another boot"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d = open(t, dir)
	}
	cut()
	if err := d.instances.Start(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if _, out := run(t, d, "c1", "cat /root/x"); out != "mine\n" {
		t.Errorf("%q", out)
	}
	if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	cut()
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c2", Start: true,
		Source: Source{Type: "copy", Instance: "c1"}})
	wait(t, o, err)
	if err := d.instances.Stop(t.Context(), "c2", 0, true); err != nil {
		t.Fatal(err)
	}
	cut()
	o, err = d.PublishImage(t.Context(), PublishSpec{From: "c1"})
	wait(t, o, err)
	end(t, d)
}

// TestDamagedRow changes one character of an instance's UUID in the database: its
// files are put away and not removed, and all others work.
func TestDamagedRow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	for _, name := range []string{"c1", "c2"} {
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "image", Alias: "bb"}})
		wait(t, o, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", filepath.Join(dir, "kiln.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`UPDATE instances SET config = replace(config, '"volatile.uuid":"', '"volatile.uuid":"0') WHERE name = 'c1'`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	lost, err := d.pool.Lost()
	if err != nil || len(lost) != 1 {
		t.Errorf("%+v, %v", lost, err)
	}
	if err := d.instances.Start(t.Context(), "c2"); err != nil {
		t.Error(err)
	}
	if list, err := d.Instances(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := d.instances.Start(t.Context(), "c1"); err == nil {
		t.Error("an instance without files starts")
	}
	o, err := d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
}

// TestForceOvertakes stops an instance by force while a clean stop waits for it.
func TestForceOvertakes(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	spec := CreateSpec{Name: "c1", Start: true, Source: Source{Type: "image", Alias: "bb"}}
	spec.Options = map[string]string{"raw.lxc": "lxc.init.cmd = /bin/sleep 1000"} // which no signal ends
	o, err := d.CreateInstance(t.Context(), spec)
	wait(t, o, err)
	clean := make(chan error)
	go func() { clean <- d.instances.Stop(t.Context(), "c1", time.Hour, false) }()
	select {
	case err := <-clean:
		t.Fatalf("the clean stop is over: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	if err := <-clean; err != nil {
		t.Errorf("the clean stop: %v", err)
	}
	if i, err := d.Instance(t.Context(), "c1"); err != nil || i.Status != instance.Stopped {
		t.Errorf("%+v, %v", i.Status, err)
	}
}

// TestDamagedTree changes some bytes of the tree that instances read: verify finds it,
// and the next start has a good one. One that can't be mounted is made again unasked.
func TestDamagedTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	img, err := d.Images.Find(t.Context(), "bb")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.pool.Settle(img.Fingerprint); err != nil {
		t.Fatal(err)
	}
	wait(t, d.VerifyImage(t.Context(), img.Fingerprint), nil)
	damage := func(at int64, b []byte) {
		t.Helper()
		if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil && !errors.Is(err, kiln.Conflict) {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "volumes", "images", img.Fingerprint.String(), "rootfs.erofs")
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		d = open(t, dir)
	}
	damage(1<<20, []byte("four"))
	if err := d.instances.Start(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	err = d.VerifyImage(t.Context(), img.Fingerprint).Wait(t.Context()).Err
	if !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), "restart those that read it now: c1") {
		t.Errorf("%v", err)
	}
	if err := d.instances.Restart(t.Context(), "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	if err := d.pool.Settle(img.Fingerprint); err != nil {
		t.Fatal(err)
	}
	wait(t, d.VerifyImage(t.Context(), img.Fingerprint), nil)
	damage(1024, make([]byte, 128)) // the superblock
	if err := d.instances.Start(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if code, out := run(t, d, "c1", "cat /etc/hostname"); code != 0 {
		t.Errorf("%d %q", code, out)
	}
	end(t, d)
}

// TestRestartInterrupted finishes restarts that a daemon had begun when it was killed:
// before its instance had stopped, and after.
func TestRestartInterrupted(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	spec := CreateSpec{Name: "c1", Start: true, Source: Source{Type: "image", Alias: "bb"}}
	spec.Options = map[string]string{"raw.lxc": "lxc.init.cmd = /bin/sleep 1000", "boot.autostart": "false"}
	spec.Ephemeral = true
	o, err := d.CreateInstance(t.Context(), spec)
	wait(t, o, err)
	const key = "volatile.restart"
	look := func() (plan string, pid int) {
		i, err := d.Instance(t.Context(), "c1")
		st, serr := d.InstanceState(t.Context(), "c1")
		if err := errors.Join(err, serr); err != nil {
			t.Fatal(err)
		}
		return i.Options[key], st.PID
	}
	_, first := look()

	// The plan is written down before the stop, which no signal brings about here.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.instances.Restart(ctx, "c1", time.Hour, false) }()
	for plan := ""; plan == ""; plan, _ = look() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the restart is over")
	}
	if plan, pid := look(); plan != "" || pid != first {
		t.Errorf("given up: %q, %d", plan, pid)
	}

	for _, stopped := range []bool{false, true} {
		if err := d.db.EditInstance(t.Context(), "c1", func(r *db.Instance) error {
			r.Config[key] = "force"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if stopped {
			if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.instances.Autostart(t.Context()); err != nil {
			t.Fatal(err)
		}
		plan, pid := look()
		if plan != "" || pid == 0 || pid == first {
			t.Errorf("stopped %v: plan %q, pid %d, before %d", stopped, plan, pid, first)
		}
		first = pid
	}
	if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil {
		t.Fatal(err)
	}
}
