package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// TestPublishRunningInstance needs no stop, and gives the same image again for the
// same files.
func TestPublishRunningInstance(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	run(t, d, "c1", "echo text > /root/x; chown 5:5 /root/x")
	spec := PublishSpec{From: "c1", Pack: instance.PackOptions{Properties: map[string]string{"os": "mine"}},
		ImportSpec: ImportSpec{Aliases: aliases("mine"), Public: true}}
	o, err := d.PublishImage(t.Context(), spec)
	s := wait(t, o, err)
	img, err := d.Images.Find(t.Context(), "mine")
	if err != nil || img.Properties["os"] != "mine" || len(img.Properties) != 2 || !img.Public ||
		s.Metadata["fingerprint"] != img.Fingerprint.String() || len(s.Resources["images"]) != 1 {
		t.Errorf("%+v, %+v, %v", img, s, err)
	}
	launch(t, d, "c2", "mine")
	if _, out := run(t, d, "c2", "cat /root/x; stat -c %u:%g /root/x; cat /etc/hostname"); out != "text\n5:5\nc2\n" {
		t.Errorf("%q", out)
	}
	setState(t, d, "c1", "stop")
	var prints [2]any
	for i := range prints {
		o, err := d.PublishImage(t.Context(), PublishSpec{From: "c1", Again: true})
		prints[i] = wait(t, o, err).Metadata["fingerprint"]
	}
	if prints[0] != prints[1] || prints[0] == nil {
		t.Errorf("%v", prints)
	}
	if _, err := d.PublishImage(t.Context(), spec); !errors.Is(err, kiln.Conflict) {
		t.Errorf("an alias that is taken: %v", err)
	}
	before := image(t, d, "mine")
	o, err = d.PublishImage(t.Context(), PublishSpec{From: "c1", Pack: spec.Pack,
		ImportSpec: ImportSpec{Aliases: aliases("other"), Properties: map[string]string{"os": "changed"}}})
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Wait(t.Context()); !errors.Is(s.Err, kiln.Conflict) || !strings.Contains(s.Err.Error(), "already exists: ") {
		t.Errorf("a client that counts on a new image: %v", s.Err)
	}
	if diff := cmp.Diff(before, image(t, d, "mine")); diff != "" {
		t.Errorf("what failed changed the image: %s", diff)
	}
	if _, err := d.Images.Alias(t.Context(), "other"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("what failed made an alias: %v", err)
	}
	nothingLeft(t, d)
}

func image(t *testing.T, d *Daemon, name string) kiln.Image {
	t.Helper()
	img, err := d.Images.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// nothingLeft looks for what publishing leaves behind.
func nothingLeft(t *testing.T, d *Daemon) {
	t.Helper()
	if names, err := d.pool.Snapshots(); len(names) != 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	temps, err := filepath.Glob(filepath.Join(d.cfg.Dir, "volumes", "tmp", "squashfs-*"))
	if len(temps) != 0 || err != nil {
		t.Errorf("%v, %v", temps, err)
	}
}

// TestPublishCancelled leaves nothing.
func TestPublishCancelled(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	run(t, d, "c1", "dd if=/dev/urandom of=/root/big bs=1M count=256 2>/dev/null")
	for _, compression := range []string{"gzip", "xz", "squashfs"} {
		o, err := d.PublishImage(t.Context(), PublishSpec{From: "c1", Pack: instance.PackOptions{Compression: compression}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // of the seconds that it takes
		if err := o.Cancel(); err != nil {
			t.Fatal(compression, err)
		}
		if s := o.Wait(t.Context()); s.Status != op.Cancelled {
			t.Errorf("%s: %v, %v", compression, s.Status, s.Err)
		}
	}
	if list, err := os.ReadDir(filepath.Join(d.cfg.Dir, "blobs", "sha256")); len(list) > 1 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	time.Sleep(50 * time.Millisecond) // for what ends with the context
	nothingLeft(t, d)
}
