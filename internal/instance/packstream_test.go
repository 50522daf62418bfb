package instance

import (
	"errors"
	"io"
	"testing"

	"github.com/kiln-containers/kiln/internal/archive"
)

// TestOneCause has a tar that ends before its first file: that the compressor got nothing
// isn't said besides the reason.
func TestOneCause(t *testing.T) {
	reason := errors.New("a file can't be read")
	for _, name := range []string{"zstd", "gzip", "xz", "none"} {
		c, err := archive.ParseCompression(name)
		if err != nil {
			t.Fatal(err)
		}
		z, err := compress(t.Context(), io.Discard, c, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := archive.CloseAfter(reason, z); err != reason {
			t.Errorf("%s: %v", name, err)
		}
	}
}
