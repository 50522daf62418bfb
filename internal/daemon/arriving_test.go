package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestArrivingSnapshots brings snapshots into a project that allows none, by whatever way, and
// has it make some by a schedule: both are refused, and work where they are allowed.
func TestArrivingSnapshots(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	if err := errors.Join(d.CreateProject(ctx, db.Project{Name: "own"}),
		d.CreateVolume(ctx, "v", volume.CustomState{})); err != nil {
		t.Fatal(err)
	}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c", Source: Source{Type: "none"}})
	wait(t, o, err)
	o, err = d.CreateSnapshot(ctx, "c", instance.NewSnapshot{Name: "s"})
	wait(t, o, err)
	o, err = d.CreateVolumeSnapshot(ctx, "v", NewVolumeSnapshot{Name: "s"})
	wait(t, o, err)
	packed := func(of func(context.Context, string) (Backups, error), name string) []byte {
		t.Helper()
		b, err := of(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		o, err := b.Create(ctx, NewBackup{Compression: "none"})
		wait(t, o, err)
		if b, err = of(ctx, name); err != nil { // it is kept by something from then on
			t.Fatal(err)
		}
		f, err := b.Open(ctx, "backup0")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	files, data := packed(d.InstanceBackups, "c"), packed(d.VolumeBackups, "v")
	own, err := d.In(ctx, "own")
	if err != nil {
		t.Fatal(err)
	}
	for _, allowed := range []string{"block", "allow"} {
		if err := d.UpdateProject(ctx, "own", func(p db.Project) (db.Project, error) {
			p.Config["restricted"], p.Config["restricted.snapshots"] = "true", allowed
			return p, nil
		}); err != nil {
			t.Fatal(err)
		}
		for verb, begin := range map[string]func() (*op.Operation, error){
			"import": func() (*op.Operation, error) {
				return d.RestoreBackup(own, CreateSpec{Name: "i"}, bytes.NewReader(files)), nil
			},
			"copy": func() (*op.Operation, error) {
				return d.CreateInstance(own, CreateSpec{Name: "k", Source: Source{Type: "copy", Instance: "c", Project: "default"}})
			},
			"import of a volume": func() (*op.Operation, error) {
				return d.ImportVolume(own, "w", bytes.NewReader(data)), nil
			},
			"copy of a volume": func() (*op.Operation, error) {
				return d.CopyVolume(own, "x", volume.CustomState{}, VolumeCopy{From: "v", Project: "default"})
			},
			"schedule": func() (*op.Operation, error) {
				return d.CreateInstance(own, CreateSpec{Name: "s", Source: Source{Type: "none"},
					Config: instance.Config{Options: map[string]string{"snapshots.schedule": "@daily"}}})
			},
			"move": func() (*op.Operation, error) { return d.MoveInstance(ctx, "c", "own", "m", nil) },
		} {
			o, err := begin()
			if err == nil {
				err = o.Wait(ctx).Err
			}
			switch {
			case allowed == "allow" && err == nil:
				if verb == "move" {
					if i, err := d.Instance(own, "m"); err != nil || i.Options[instance.TemplateKey] != "rename" {
						t.Errorf("its files have another name in them: %v, %v", i.Options, err)
					}
					o, err := d.MoveInstance(own, "m", "default", "c", nil) // another copy may come after it
					wait(t, o, err)
				}
			case allowed == "allow":
				t.Errorf("%s: %v", verb, err)
			case !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), "restricted.snapshots"):
				t.Errorf("%s: %v", verb, err)
			}
		}
	}
}
