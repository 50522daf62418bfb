package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestDeepDirectories has a user of a container make directories deeper than any path
// is long: the instance can be listed, snapshotted, restored, copied and deleted like
// any other, and the next daemon starts.
func TestDeepDirectories(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	name := strings.Repeat("d", 200)
	// A shell's cd knows its path: what is there is put into a new directory instead.
	code, out := run(t, d, "c1", "cd /root && mkdir "+name+" && echo x > "+name+"/f && for i in $(seq 100); do "+
		"mkdir w && mv "+name+" w/ && mv w "+name+" || exit 1; done")
	if code != 0 {
		t.Fatal(out)
	}
	if st, err := d.InstanceState(t.Context(), "c1"); err != nil || st.DiskUsage == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	snapshot(t, d, "c1", "s0")
	if err := d.instances.Stop(t.Context(), "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	snapshot(t, d, "c1", "s1")
	restore(t, d, "c1", "s0")
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c2", Start: true, Source: Source{Type: "copy", Instance: "c1"}})
	wait(t, o, err)
	if code, out = run(t, d, "c2", "ls /root/"+name+"/"+name); code != 0 || out != name+"\n" {
		t.Errorf("the copy: %d, %.100q", code, out)
	}
	// A tar has paths, which have an end.
	o, err = d.PublishImage(t.Context(), PublishSpec{From: "c1/s0"})
	if err == nil {
		err = o.Wait(t.Context()).Err
	}
	if !errors.Is(err, kiln.Unsupported) || !strings.Contains(err.Error(), "root/ddd") {
		t.Errorf("publish: %v", err)
	}
}
