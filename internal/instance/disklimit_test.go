package instance

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestLowestBounds: of several disks on one block device the lowest bound of each kind holds. One
// that isn't there bounds nothing if it may be missing, and is an error if not.
func TestLowestBounds(t *testing.T) {
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{{"truncate", "-s", "16M", img}, {"mkfs.ext4", "-q", img},
		{"mount", "-o", "loop", img, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	disk := func(read, write string) map[string]string {
		return map[string]string{"type": "disk", "source": dir, "path": "/srv", readLimit: read, writeLimit: write}
	}
	gone := disk("1MiB", "")
	gone["source"] = filepath.Join(dir, "gone")
	i := Instance{}
	i.ExpandedDevices = map[string]map[string]string{"a": disk("2MiB", "30iops"), "b": disk("1MiB", "40iops"),
		"c": disk("3MiB", "5MiB"), "gone": gone}
	pool, err := volume.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s := &Set{pool: pool}
	if _, err := s.diskLimits(t.Context(), i); !errors.Is(err, kiln.NotFound) {
		t.Errorf("one is missing: %v", err)
	}
	gone["optional"] = "true"
	list, err := s.diskLimits(t.Context(), i)
	if err != nil || len(list) != 1 || list[0].Device == "" {
		t.Fatalf("%+v, %v", list, err)
	}
	list[0].Device = ""
	if want := (box.DiskLimit{ReadBytes: 1 << 20, WriteBytes: 5 << 20, WriteOperations: 30}); list[0] != want {
		t.Errorf("%+v, want %+v", list[0], want)
	}
}
