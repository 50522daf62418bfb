package daemon

import (
	"slices"
	"testing"

	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestUsageOfSnapshot has a tree that only a snapshot of before a rebuild needs: it is among
// what images cost.
func TestUsageOfSnapshot(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("x")}, formattest.Tiny(t, "1")), nil)
	img, err := d.Images.Find(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "x"}})
	wait(t, o, err)
	if err := d.instances.CreateSnapshot(ctx, "c1", instance.NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	o, err = d.RebuildInstance(ctx, "c1", Source{Type: "none"}, false)
	wait(t, o, err)
	wait(t, d.DeleteImage(ctx, img.Fingerprint), nil)
	u, err := d.ImageUsage(ctx)
	if err != nil || len(u.Images) != 1 || u.Images[0].Image.Fingerprint != img.Fingerprint || u.Trees == 0 ||
		!slices.Equal(u.Images[0].UsedBy, []string{"c1/s0"}) {
		t.Errorf("%+v, %v", u, err)
	}
}
