package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestWarnings has an instance that can't be started with the daemon, and whose snapshots
// fail: each is a warning until it works.
func TestWarnings(t *testing.T) {
	d := fresh(t)
	ctx := t.Context()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	spec := CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"}}
	spec.Options = map[string]string{"raw.lxc": "lxc.init.cmd = /bin/none", "boot.autostart": "true"}
	o, err := d.CreateInstance(ctx, spec)
	wait(t, o, err)
	// is looks at the only warning there is.
	is := func(kind, status string, count int64, message string) Warning {
		t.Helper()
		list, err := d.Warnings(ctx, project.Default)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		w := list[0]
		if w.Type != kind || w.Status != status || w.Count != count || !strings.Contains(w.Message, message) ||
			w.Severity == "" || w.URL != "/1.0/instances/c1" {
			t.Errorf("%+v, want %q %q %d", w, kind, status, count)
		}
		return w
	}
	for range 2 {
		if err := d.instances.Autostart(ctx); err == nil {
			t.Fatal("it has started")
		}
	}
	w := is(autostartFailed, db.WarningNew, 2, "/bin/none")
	if list, err := d.Warnings(ctx, "another"); err != nil || len(list) != 0 {
		t.Errorf("of another project: %+v, %v", list, err)
	}

	set := func(status string) error {
		return d.SetWarningStatus(ctx, w.ID, func(Warning) (string, error) { return status, nil })
	}
	if err := set(db.WarningResolved); kiln.KindOf(err) != kiln.Invalid {
		t.Errorf("resolved by hand: %v", err)
	}
	if err := set(db.WarningAcknowledged); err != nil {
		t.Error(err)
	}
	is(autostartFailed, db.WarningAcknowledged, 2, "")
	if _, err := d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
		i.Config.Options["raw.lxc"] = "lxc.init.cmd = /bin/sleep 1000"
		return i.Config, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.instances.Autostart(ctx); err != nil {
		t.Fatal(err)
	}
	is(autostartFailed, db.WarningResolved, 2, "")
	l := d.Events.Listen("lifecycle")
	defer l.Close()
	if err := d.DeleteWarning(ctx, "none"); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("another one: %v", err)
	}
	if err := d.DeleteWarning(ctx, w.ID); err != nil {
		t.Error(err)
	}
	if c := nextLifecycle(t, l, "warning-deleted"); !strings.HasSuffix(c.Source, w.ID) { // nothing is told of the other one
		t.Errorf("told: %+v", c)
	}

	i, err := d.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	d.instances.Failed(instance.ScheduledSnapshot, i, errors.New("no room"))
	is(scheduleFailed, db.WarningNew, 1, "no room")
	o, err = d.CreateSnapshot(ctx, "c1", instance.NewSnapshot{})
	wait(t, o, err)
	is(scheduleFailed, db.WarningResolved, 1, "no room")
	if err := d.instances.Stop(ctx, "c1", 0, true); err != nil {
		t.Error(err)
	}
}
