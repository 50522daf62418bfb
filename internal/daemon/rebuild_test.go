package daemon

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestRebuildOfRunning rebuilds an instance that runs: whatever is wrong with what is
// asked for, the instance goes on running as it was; else it has the new files and runs.
func TestRebuildOfRunning(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	run(t, d, "c1", "echo mine > /root/x")
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "e1", Start: true,
		Config: instance.Config{Ephemeral: true}, Source: Source{Type: "image", Alias: "bb"}})
	wait(t, o, err)
	nowhere := kiln.Remote{Server: "https://127.0.0.1:1", Protocol: kiln.ProtocolLXD}
	for name, c := range map[string]struct {
		instance string
		source   Source
		force    bool
		kind     kiln.Kind
	}{
		"no such image":   {"c1", Source{Type: "image", Alias: "nosuchimage"}, true, kiln.NotFound},
		"no such server":  {"c1", Source{Type: "image", Alias: "bb", Remote: nowhere}, true, kiln.Network},
		"without force":   {"c1", Source{Type: "image", Alias: "bb"}, false, kiln.Conflict},
		"it is ephemeral": {"e1", Source{Type: "image", Alias: "bb"}, true, kiln.Conflict},
	} {
		o, err := d.RebuildInstance(t.Context(), c.instance, c.source, c.force)
		if err == nil {
			err = o.Wait(t.Context()).Err
		}
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, out := run(t, d, "c1", "cat /root/x"); out != "mine\n" {
		t.Errorf("%q", out)
	}
	if i, err := d.Instance(t.Context(), "e1"); err != nil || i.Status != instance.Running {
		t.Error(i.Status, err)
	}
	o, err = d.RebuildInstance(t.Context(), "c1", Source{Type: "image"}, true)
	for err == nil && !o.Snapshot().Status.Final() { // the daemon may die at any time
		r, err := d.db.Instance(t.Context(), "c1")
		if err != nil {
			t.Fatal(err)
		}
		if !r.Running && r.Config["volatile.restart"] == "" {
			t.Fatal("the next daemon would not know that it is to run")
		}
	}
	wait(t, o, err)
	if _, out := run(t, d, "c1", "ls /root"); out != "" {
		t.Errorf("%q", out)
	}
}
