package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestSealed notices each changed and each missing byte of a file.
func TestSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "file")
	if _, err := ReadSealed(path, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	if err := WriteSealed(path, 0o600, []byte("content")); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadSealed(path, 8); err != nil || string(b) != "content\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := ReadSealed(path, 7); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := append([]byte(nil), whole...)
		bad[i] ^= 1
		for what, b := range map[string][]byte{"changed": bad, "cut": whole[:i]} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadSealed(path, 100); !errors.Is(err, kiln.Integrity) {
				t.Errorf("%s at %d: %v", what, i, err)
			}
		}
	}
}
