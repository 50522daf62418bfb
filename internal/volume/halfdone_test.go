package volume_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestDescriptorsEnd has no descriptor left right after the files of a snapshot and of a
// volume changed places: the snapshot fails, and the volume has what it had.
func TestDescriptorsEnd(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	v, err := p.Empty(t.Context(), "v")
	must(t, err)
	root, end := volumetest.Mount(t, v, false)
	must(t, os.WriteFile(root+"/precious", []byte("content"), 0o600))
	end()
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	renames := 0
	stop := disk.Record(func(s disk.Step) {
		if s.Kind != disk.Renamed || filepath.Dir(s.Path) != filepath.Join(dir, "layers") {
			return
		}
		if renames++; renames == 2 { // put there, and exchanged
			must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}))
		}
	})
	_, err = p.Snapshot(t.Context(), "v", "s", nil)
	stop()
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	if err == nil || renames != 2 {
		t.Errorf("a snapshot without descriptors after %d renames: %v", renames, err)
	}
	p.Quiet()
	v, err = p.Get("v")
	must(t, err)
	root, end = volumetest.Mount(t, v, false)
	defer end()
	if b, err := os.ReadFile(root + "/precious"); string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestMergedOfNothing has the record of a merged layer damaged in one bit, so that it names
// no layers: snapshots end all the same, and the layers stay.
func TestMergedOfNothing(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.Open(dir)
	must(t, err)
	v, err := p.Empty(t.Context(), "v")
	must(t, err)
	for i := range 9 {
		root, end := volumetest.Mount(t, v, false)
		must(t, os.WriteFile(root+"/f", []byte{byte(i)}, 0o600))
		end()
		_, err = p.Snapshot(t.Context(), "v", string(rune('a'+i)), nil)
		must(t, err)
		p.Quiet()
	}
	must(t, p.Close())
	records, err := filepath.Glob(dir + "/layers/*/layer.json")
	must(t, err)
	if len(records) != 1 {
		t.Fatal(records)
	}
	b, err := os.ReadFile(records[0])
	must(t, err)
	must(t, os.WriteFile(records[0], bytes.Replace(b, []byte("parts"), []byte("qarts"), 1), 0o600))
	p = openPool(t, dir)
	_, err = p.Snapshot(t.Context(), "v", "z", nil)
	must(t, err)
	v, err = p.Get("v")
	must(t, err)
	root, end := volumetest.Mount(t, v, false)
	defer end()
	if b, err := os.ReadFile(root + "/f"); !bytes.Equal(b, []byte{8}) {
		t.Errorf("%v, %v", b, err)
	}
}
