package blob

import (
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestOrder makes sure that a blob's content is on the disk before it has its name,
// and the name, and that of its directory, before Commit returns.
func TestOrder(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var steps []disk.Step
	defer disk.Record(func(s disk.Step) { steps = append(steps, s) })()
	fp, err := d.Put(strings.NewReader("content"), kiln.Fingerprint{})
	if err != nil {
		t.Fatal(err)
	}
	path := d.Path(fp)
	want := []string{disk.SyncedFile, disk.Renamed, disk.SyncedDir, disk.SyncedDir}
	var kinds []string
	for _, s := range steps {
		kinds = append(kinds, s.Kind)
	}
	if strings.Join(kinds, ", ") != strings.Join(want, ", ") {
		t.Fatalf("%v, want %v", steps, want)
	}
	if steps[1].Path != path || !strings.HasPrefix(path, steps[2].Path+"/") ||
		!strings.HasPrefix(path, steps[3].Path+"/") ||
		steps[2].Path == steps[3].Path {
		t.Errorf("%v for %s", steps, path)
	}
}
