package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// cgroupFile reads a file of a container's cgroup, wherever its controller is.
func cgroupFile(t *testing.T, uuid string, names ...string) string {
	t.Helper()
	for _, name := range names {
		for _, h := range []string{"", "unified", "memory"} {
			if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", h, "kiln.payload", uuid, name)); err == nil {
				return strings.TrimSpace(string(b))
			}
		}
	}
	t.Fatalf("%s has none of %q", uuid, names)
	return ""
}

// TestHold has an instance stand still for a moment: it runs to all who ask, and goes on
// after that, by the next daemon if this one dies; one that a user has paused stays so.
func TestHold(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
	d := open(t, dir)
	defer func() { end(t, d) }()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	i, err := d.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	uuid := i.Options[instance.UUIDKey]
	check := func(when, frozen string, held bool, want instance.Status) {
		t.Helper()
		_, err := os.Stat(filepath.Join(dir, "boxes", uuid, "held"))
		i, ierr := d.Instance(ctx, "c1")
		if now := cgroupFile(t, uuid, "cgroup.freeze"); now != frozen || errors.Is(err, fs.ErrNotExist) == held ||
			ierr != nil || i.Status != want {
			t.Errorf("%s: frozen %s, %v, %v, %v", when, now, err, i.Status, ierr)
		}
	}
	hold := func() (resume func() error) {
		t.Helper()
		resume, err := d.instances.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "c1"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		return resume
	}
	resume := hold()
	check("held", "1", true, instance.Running)
	if err := resume(); err != nil {
		t.Error(err)
	}
	check("after that", "0", false, instance.Running)
	if code, out := run(t, d, "c1", "echo on"); code != 0 || out != "on\n" {
		t.Errorf("%d %q", code, out)
	}

	setState(t, d, "c1", "freeze")
	resume = hold()
	check("paused and held", "1", false, instance.Frozen)
	if err := resume(); err != nil {
		t.Error(err)
	}
	check("paused, after that", "1", false, instance.Frozen)
	setState(t, d, "c1", "unfreeze")

	hold()
	check("held once more", "1", true, instance.Running)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	check("with the next daemon", "0", false, instance.Running)

	// A change that can't be written down is taken back from what runs.
	limit := func() string { return cgroupFile(t, uuid, "memory.max", "memory.limit_in_bytes") }
	before := limit()
	_, err = d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
		i.Options = map[string]string{"limits.memory": "100MiB", "volatile.x": "mine"}
		i.Devices = map[string]map[string]string{"d": {"type": "disk", "source": t.TempDir(), "path": "/mnt/d"}}
		return i.Config, nil
	})
	if !errors.Is(err, kiln.Invalid) || limit() != before {
		t.Errorf("%v; the limit is %s, and was %s", err, limit(), before)
	}
	if _, out := run(t, d, "c1", "grep -c /mnt/d /proc/mounts"); out != "0\n" {
		t.Errorf("its disk stays: %s", out)
	}
}
