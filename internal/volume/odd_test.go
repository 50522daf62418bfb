package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestDamagedMeta: metadata of an image's tree that a disk has damaged are found out when
// they are used, and the tree is made again; where it can't be, its files are there still.
func TestDamagedMeta(t *testing.T) {
	for name, damage := range map[string]func(meta string) error{
		"empty":   func(meta string) error { return os.Truncate(meta+"/metadata.yaml", 0) },
		"changed": func(meta string) error { return os.WriteFile(meta+"/metadata.yaml", []byte("b\n"), 0o600) },
		"lost":    func(meta string) error { return os.Remove(meta + "/metadata.yaml") },
		"more":    func(meta string) error { return os.WriteFile(meta+"/x", nil, 0o600) },
		"gone":    os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir, filled := t.TempDir(), new(atomic.Int32)
			p := openPool(t, dir)
			v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(filled))
			if err != nil {
				t.Fatal(err)
			}
			if err := p.VerifyTree(t.Context(), volumetest.Image); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(dir, "images", volumetest.Image.String(), "meta")); err != nil {
				t.Fatal(err)
			}
			if err := p.VerifyTree(t.Context(), volumetest.Image); !errors.Is(err, kiln.Integrity) {
				t.Errorf("verify: %v", err)
			}
			p.Refill = func(context.Context, kiln.Fingerprint) (volume.Content, error) {
				return volume.Content{}, kiln.Errorf(kiln.NotFound, "no such image")
			}
			if _, err := v.Meta(); !errors.Is(err, kiln.Integrity) {
				t.Errorf("without the image: %v", err)
			}
			_, end := volumetest.Mount(t, v, false)
			end()
			p.Refill = func(ctx context.Context, _ kiln.Fingerprint) (volume.Content, error) {
				return volumetest.Content(filled)(ctx)
			}
			meta, err := v.Meta()
			if err != nil {
				t.Fatal(err)
			}
			defer meta.Close()
			if b, err := meta.ReadFile("metadata.yaml"); string(b) != "a\n" {
				t.Errorf("%q, %v", b, err)
			}
			if filled.Load() != 2 {
				t.Errorf("made %d times", filled.Load())
			}
		})
	}
}

// TestOddRecords has directories in the places of records: the pool opens, and what has
// them is damaged or made again; nothing else is touched.
func TestOddRecords(t *testing.T) {
	dir, filled := t.TempDir(), new(atomic.Int32)
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"good", "bad"} {
		if _, err := p.Clone(t.Context(), name, volumetest.Image, volumetest.Content(filled)); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Snapshot(t.Context(), name, name+"-s", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	layers, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil || len(layers) == 0 {
		t.Fatal(layers, err)
	}
	odd := []string{"volumes/bad/volume.json", "snapshots/bad-s/snapshot.json",
		"images/" + volumetest.Image.String() + "/image.json"}
	for _, l := range layers {
		odd = append(odd, "layers/"+l.Name()+"/layer.json")
	}
	for _, path := range odd {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	p = openPool(t, dir)
	p.Refill = func(ctx context.Context, _ kiln.Fingerprint) (volume.Content, error) {
		return volumetest.Content(filled)(ctx)
	}
	if _, err := p.Get("bad"); !errors.Is(err, kiln.Integrity) {
		t.Errorf("%v", err)
	}
	if _, err := p.GetSnapshot("bad-s"); !errors.Is(err, kiln.Integrity) {
		t.Errorf("%v", err)
	}
	if _, err := p.GetSnapshot("good-s"); err != nil {
		t.Error(err)
	}
	v, err := p.Get("good")
	if err != nil {
		t.Fatal(err)
	}
	_, end := volumetest.Mount(t, v, false)
	end()
	if list, err := p.Images(); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := errors.Join(p.Delete(t.Context(), "bad"), p.DeleteSnapshots(t.Context(), "bad-s")); err != nil {
		t.Error(err)
	}
}

// TestPipeForTree has a named pipe in the place of an image's tree, with digests and before
// there are any: nobody waits for it, it is damage, and the tree is made again.
func TestPipeForTree(t *testing.T) {
	for name, drop := range map[string]string{"new": "digest", "old": "none"} {
		t.Run(name, func(t *testing.T) {
			dir, filled := t.TempDir(), new(atomic.Int32)
			p := openPool(t, dir)
			if !p.MountsImages() {
				t.Fatal("this kernel has no EROFS")
			}
			v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(filled))
			if err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(dir, "images", volumetest.Image.String())
			if err := p.Settle(volumetest.Image); err != nil {
				t.Fatal(err)
			}
			tree := filepath.Join(image, "rootfs.erofs")
			if err := errors.Join(os.RemoveAll(filepath.Join(image, drop)), os.Remove(tree),
				unix.Mkfifo(tree, 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := p.VerifyTree(t.Context(), volumetest.Image); !errors.Is(err, kiln.Integrity) ||
				!strings.Contains(err.Error(), "named pipe") {
				t.Errorf("verify: %v", err)
			}
			p.Refill = func(ctx context.Context, _ kiln.Fingerprint) (volume.Content, error) {
				return volumetest.Content(filled)(ctx)
			}
			_, end := volumetest.Mount(t, v, false)
			end()
			if filled.Load() != 2 {
				t.Errorf("made %d times", filled.Load())
			}
		})
	}
}
