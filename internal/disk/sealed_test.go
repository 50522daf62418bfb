package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	by := func(parts ...string) func(io.Writer) error {
		return func(w io.Writer) (err error) {
			for _, p := range parts {
				_, werr := io.WriteString(w, p)
				err = errors.Join(err, werr)
			}
			return err
		}
	}
	large := strings.Repeat("x", 200<<10)
	for _, parts := range [][]string{{"con", "", "tent"}, {large, "y"}} {
		if err := WriteSealedBy(path, 0o600, by(parts...)); err != nil {
			t.Fatal(err)
		}
		if b, err := ReadSealed(path, 1<<20); err != nil || string(b) != strings.Join(parts, "")+"\n" {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		for n, text := range [][]string{{strings.Join(parts, "")}, parts, {parts[0]}, append(slices.Clone(parts), "more"),
			{strings.ToUpper(parts[0]), parts[1]}} {
			if same, err := IsSealed(path, by(text...)); err != nil || same != (n < 2) {
				t.Errorf("%d is the text: %v, %v", n, same, err)
			}
		}
	}
	if same, err := IsSealed(path, func(io.Writer) error { return io.ErrNoProgress }); same || err == nil {
		t.Errorf("%v, %v", same, err)
	}
	if err := WriteSealed(path, 0o600, []byte("content")); err != nil {
		t.Fatal(err)
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
