package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln/internal/instance"
)

// TestPassingCopies has a daemon die that keeps an instance as it is, for another server and for an
// image: the next one removes what was kept, and the files go with the instance.
func TestPassingCopies(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
	d := open(t, dir)
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "none"}})
	wait(t, o, err)
	i, err := d.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(dir, "volumes/volumes", i.Options[instance.UUIDKey], "upper")
	change := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(upper, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change("a")
	if err := d.instances.CreateSnapshot(ctx, "c1", instance.NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	change("b")
	share, err := d.instances.Share(ctx, "c1", false)
	if err != nil {
		t.Fatal(err)
	}
	change("c")
	source := d.instances.Pack("c1/s0", instance.PackOptions{Compression: "none"})
	img, err := source.Find(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	image, err := source.Open(ctx, img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(share.Close(), image.Close()) }) // of the daemon that is gone
	there := func(sub string) int {
		t.Helper()
		list, err := os.ReadDir(filepath.Join(dir, "volumes", sub))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if there("snapshots") != 4 {
		t.Fatal(there("snapshots"))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	if there("snapshots") != 1 || there("lost") > 0 {
		t.Errorf("%d snapshots are there, and %d things are lost", there("snapshots"), there("lost"))
	}
	list, err := d.Warnings(ctx, "")
	if err != nil || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
	o, err = d.DeleteInstance(ctx, "c1")
	wait(t, o, err)
	if there("layers")+there("snapshots")+there("volumes") > 0 {
		t.Errorf("%d layers are left", there("layers"))
	}
}
