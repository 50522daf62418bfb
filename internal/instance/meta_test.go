package instance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln/internal/disk"
)

// TestReplaceFile syncs what is in a file before it gets its name, and the name then.
func TestReplaceFile(t *testing.T) {
	path := t.TempDir()
	if err := os.Mkdir(filepath.Join(path, templateDir), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var steps []string
	stop := disk.Record(func(s disk.Step) {
		state := "before"
		if _, err := dir.Stat("templates/x"); err == nil {
			state = "named"
		}
		steps = append(steps, filepath.Base(s.Path)+" "+state)
	})
	defer stop()
	if err := replaceFile(dir, "templates/x", []byte("text")); err != nil {
		t.Fatal(err)
	}
	if want := []string{".x.new before", "templates named"}; !slices.Equal(steps, want) {
		t.Errorf("%q, want %q", steps, want)
	}
	if b, err := dir.ReadFile("templates/x"); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
