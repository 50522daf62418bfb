package blob

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestKeep puts a blob away for good: no sweep removes it, until somebody does.
func TestKeep(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fp, err := d.Put(strings.NewReader("content"), kiln.Fingerprint{})
	if err := errors.Join(err, d.Keep(fp)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * LostTime)
	if err := errors.Join(os.Chtimes(filepath.Join(d.path, "lost", fp.String()), old, old), d.SweepLost()); err != nil {
		t.Fatal(err)
	}
	if _, size, kept, err := d.StatLost(fp); err != nil || size != 7 || !kept {
		t.Errorf("%d bytes, kept %v, %v", size, kept, err)
	}
	if err := d.DropLost(fp); err != nil {
		t.Error(err)
	}
	if err := d.DropLost(fp); !errors.Is(err, kiln.NotFound) {
		t.Errorf("twice: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(d.path, "lost")); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
