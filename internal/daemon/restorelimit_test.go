package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestRestoreRefused restores a snapshot with more memory than the project has left: that is
// refused before any file is lost, and nothing of it is left for the next daemon to do.
func TestRestoreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	ctx := t.Context()
	if err := d.CreateProject(ctx, db.Project{Name: "web",
		Config: map[string]string{"features.profiles": "false", "limits.memory": "1GiB"}}); err != nil {
		t.Fatal(err)
	}
	in, err := d.In(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	memory := func(v string) instance.Config {
		return instance.Config{Options: map[string]string{"limits.memory": v}}
	}
	set := func(v string) error {
		_, err := d.UpdateInstance(in, "c1", func(i instance.Instance) (instance.Config, error) {
			c := i.Config
			c.Options = map[string]string{"limits.memory": v}
			return c, nil
		})
		return err
	}
	o, err := d.CreateInstance(in, CreateSpec{Name: "c1", Source: Source{Type: "none"}, Config: memory("800MiB")})
	wait(t, o, err)
	o, err = d.CreateSnapshot(in, "c1", instance.NewSnapshot{Name: "s0"})
	wait(t, o, err)
	if err := set("200MiB"); err != nil {
		t.Fatal(err)
	}
	o, err = d.CreateInstance(in, CreateSpec{Name: "c2", Source: Source{Type: "none"}, Config: memory("500MiB")})
	wait(t, o, err)
	row, err := d.db.Instance(in, "c1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "volumes/volumes", row.Config[instance.UUIDKey], "upper/precious")
	if err := os.WriteFile(file, []byte("written after the snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.instances.Restore(in, "c1", "s0"); !errors.Is(err, kiln.Invalid) {
		t.Errorf("restore: %v", err)
	}
	end(t, d)
	d = open(t, dir)
	defer end(t, d)
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	in, err = d.In(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	after, err := d.db.Instance(in, "c1")
	if err != nil || after.Config["limits.memory"] != "200MiB" || after.Config["volatile.restore"] != "" {
		t.Errorf("%v, %v", after.Config, err)
	}
}
