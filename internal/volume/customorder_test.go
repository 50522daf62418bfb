package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestCustomOrder looks at what reaches the disk: files before their names, and that a name is
// gone before somebody is told so.
func TestCustomOrder(t *testing.T) {
	p, dir := openCustoms(t)
	defer p.Close()
	ctx := t.Context()
	data, other := volume.CustomName{In: "default", Name: "data"}, volume.CustomName{In: "default", Name: "other"}
	must(t, p.CreateCustom(data, volume.CustomState{}))
	quiet := func(context.Context) (func() error, error) { return func() error { return nil }, nil }
	snapshot := func() error { return p.SnapshotCustom(ctx, data, "s", time.Now(), time.Time{}, nil) }
	arrive := func(ctx context.Context) error {
		r, err := p.Receive(nil)
		must(t, err)
		defer r.Close()
		tree, err := r.Tree("")
		must(t, err)
		must(t, tree.Add(&archive.Entry{Path: ".", Type: archive.Dir, Mode: 0o755}, nil))
		must(t, tree.Close())
		return r.CommitCustom(ctx, volume.CustomName{In: "default", Name: "arrived"}, volume.CustomState{}, nil)
	}
	late, cancel := context.WithCancel(ctx)
	cancel()
	if err := arrive(late); !errors.Is(err, context.Canceled) {
		t.Errorf("import of who is gone: %v", err)
	}
	for _, c := range []struct {
		what, name string
		f          func() error
	}{
		{"snapshot", "/data/snapshots/s/", snapshot},
		{"copy", "/custom/default/other/", func() error {
			return p.CopyCustom(ctx, data, "", other, volume.CustomState{}, true, nil)
		}},
		{"import", "/custom/default/arrived/", func() error { return arrive(ctx) }},
		{"restore", "/data/files/", func() error { return p.RestoreCustom(ctx, data, "s", anyState, quiet) }},
	} {
		list := steps(t, c.f)
		synced := first(t, list, 0, disk.SyncedSystem, "/tmp/new-")
		named := first(t, list, synced, disk.Renamed, c.name)
		if c.what == "restore" { // both names of what changed places
			first(t, list, named, disk.SyncedDir, "/custom/default/data/")
			first(t, list, named, disk.SyncedDir, "/tmp/new-")
		}
	}
	// Nobody moves what is being read.
	release, err := p.UseCustom(data)
	must(t, err)
	isKind(t, p.RenameCustomSnapshot(data, "s", "r"), kiln.Conflict)
	isKind(t, p.DeleteCustomSnapshot(data, "s"), kiln.Conflict)
	isKind(t, p.DeleteCustom(data, nil), kiln.Conflict)
	release()
	// What is damaged isn't copied as if it were whole.
	record := filepath.Join(dir, "custom/default/data/custom.json")
	whole, err := os.ReadFile(record)
	must(t, err)
	must(t, os.WriteFile(record, whole[1:], 0o600))
	isKind(t, p.SnapshotCustom(ctx, data, "t", time.Now(), time.Time{}, nil), kiln.Integrity)
	isKind(t, p.CopyCustom(ctx, data, "", volume.CustomName{In: "default", Name: "third"}, volume.CustomState{}, false, nil),
		kiln.Integrity)
	_, err = p.KeepCustom(ctx, data, true, nil)
	isKind(t, err, kiln.Integrity)
	must(t, os.WriteFile(record, whole, 0o600))
	for part, f := range map[string]func() error{
		"/custom/default/other/snapshots/": func() error { return p.DeleteCustomSnapshot(other, "s") },
		"/custom/default/":                 func() error { return p.DeleteCustom(data, nil) },
	} {
		list := steps(t, f)
		if last := list[len(list)-1]; last.Kind != disk.SyncedDir || last.Path+"/" != filepath.Join(dir, part)+"/" {
			t.Errorf("%s: %v", part, list)
		}
	}
}
