package archive

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kiln-containers/kiln"
)

// TestWindow gives a zstd stream the memory that its first frame asks for, and counts that: no
// later one may take more.
func TestWindow(t *testing.T) {
	frame := func(window, size int) []byte {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
		if err == nil {
			_, err = z.Write(make([]byte, size))
		}
		if err := errors.Join(err, z.Flush(), z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const mib = 1 << 20
	small, large := frame(mib, 2*mib), frame(64*mib, 70*mib)
	skippable := []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00size") // as pzstd writes
	for name, c := range map[string]struct {
		b      []byte
		window uint64
		kind   error
	}{
		"small":        {small, commonWindow, nil},
		"large":        {large, 64 * mib, nil},
		"large, small": {append(bytes.Clone(large), small...), 64 * mib, nil},
		"small, large": {append(bytes.Clone(small), large...), commonWindow, kiln.TooLarge},
		"pzstd":        {append(bytes.Clone(skippable), large...), 64 * mib, nil},
		"nothing":      {skippable, commonWindow, nil},
	} {
		if got := windowOf(bufio.NewReader(bytes.NewReader(c.b))); got != c.window {
			t.Errorf("%s: a window of %d", name, got)
		}
		crowd := NewCrowd(0, nil)
		v, err := crowd.Share(Client{})
		if err != nil {
			t.Fatal(err)
		}
		z, err := decoder(t.Context(), Zstd, bufio.NewReader(bytes.NewReader(c.b)), v)
		if err != nil {
			t.Fatal(err)
		}
		if v.bytes-streamSize != int64(c.window) {
			t.Errorf("%s: it counts %d", name, v.bytes-streamSize)
		}
		if _, err := io.Copy(io.Discard, z); !errors.Is(damaged(err), c.kind) {
			t.Errorf("%s: %v", name, err)
		}
		z.Close()
	}
}
