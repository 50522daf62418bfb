package volume_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestCheckMerged changes each byte of the record of a merged layer: it is found, and written
// again. One that a new pool can't read goes; the volume stands on its layers all the same. A
// record of an older version, without a hash, is read.
func TestCheckMerged(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.Open(dir)
	must(t, err)
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	must(t, err)
	for i := range 9 {
		root, end := volumetest.Mount(t, v, false)
		must(t, os.WriteFile(root+"/f", []byte{byte(i)}, 0o600))
		end()
		_, err = p.Snapshot(t.Context(), "v", string(rune('a'+i)), nil)
		must(t, err)
		p.Quiet()
	}
	records, err := filepath.Glob(dir + "/layers/*/layer.json")
	must(t, err)
	if len(records) != 1 {
		t.Fatal(records)
	}
	path := records[0]
	was, err := os.ReadFile(path)
	must(t, err)
	if list, err := p.CheckMerged(); err != nil || len(list) > 0 {
		t.Fatalf("%v, %v", list, err)
	}
	for at := range was {
		bad := bytes.Clone(was)
		bad[at] ^= 1 << (at % 8)
		must(t, os.WriteFile(path, bad, 0o600))
		list, err := p.CheckMerged()
		if err != nil || len(list) != 1 || !errors.Is(list[0].Problem, kiln.Integrity) || list[0].Repaired == "" ||
			list[0].Layer != filepath.Base(filepath.Dir(path)) {
			t.Fatalf("byte %d: %+v, %v", at, list, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, was) {
			t.Fatalf("byte %d: it is %q, %v", at, now, err)
		}
	}
	must(t, os.Remove(path))
	if list, err := p.CheckMerged(); err != nil || len(list) != 1 || list[0].Repaired != "written again" {
		t.Errorf("lost: %+v, %v", list, err)
	}
	old, _, _ := bytes.Cut(was, []byte("\n"))
	must(t, os.WriteFile(path, old, 0o600))
	if list, err := p.CheckMerged(); err != nil || len(list) > 0 {
		t.Errorf("of an older version: %+v, %v", list, err)
	}

	must(t, p.Close())
	was[3] ^= 1
	must(t, os.WriteFile(path, was, 0o600))
	p = openPool(t, dir)
	list, err := p.CheckMerged()
	if err != nil || len(list) != 1 || list[0].Repaired == "" {
		t.Errorf("damaged before the pool was opened: %+v, %v", list, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	v, err = p.Get("v")
	must(t, err)
	root, end := volumetest.Mount(t, v, false)
	defer end()
	if b, err := os.ReadFile(root + "/f"); !bytes.Equal(b, []byte{8}) {
		t.Errorf("%v, %v", b, err)
	}
}
