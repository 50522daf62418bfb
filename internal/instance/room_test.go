package instance

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// TestRoom has files on their way take more of the disk than they have in them, as XFS lets
// those that grow: what is in them counts.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=160m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	own, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	trees := &Trees{own: own}
	if err := unix.Fstatfs(int(own.Fd()), &trees.before); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "d", "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	allocate := func(mode uint32, size int64) {
		t.Helper()
		if err := unix.Fallocate(int(f.Fd()), mode, 0, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := trees.room(archive.Limits{Entries: 2}); err != nil {
		t.Error("as many files as may be:", err)
	}
	if err := trees.room(archive.Limits{Entries: 1}); !errors.Is(err, kiln.TooLarge) {
		t.Error("one file too many:", err)
	}
	few := archive.Limits{Bytes: 4 << 20}
	allocate(unix.FALLOC_FL_KEEP_SIZE, 8<<20)
	if err := trees.room(few); err != nil {
		t.Error("beyond the end:", err)
	}
	allocate(0, 8<<20)
	if err := trees.room(few); !errors.Is(err, kiln.TooLarge) {
		t.Error("in the file:", err)
	}
	allocate(unix.FALLOC_FL_KEEP_SIZE, 120<<20)
	if err := trees.room(archive.Limits{}); err != nil {
		t.Error("a full disk that isn't:", err)
	}
	allocate(0, 120<<20)
	if err := trees.room(archive.Limits{}); !errors.Is(err, kiln.NoSpace) {
		t.Error("a full disk:", err)
	}
}
