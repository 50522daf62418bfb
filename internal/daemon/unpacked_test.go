package daemon

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/kiln-containers/kiln"
)

// TestUnpackedDamage flips a bit of each byte in turn, and cuts before each: it is
// noticed as damage, whatever the decoder calls it, or it changes nothing.
func TestUnpackedDamage(t *testing.T) {
	rng, want := rand.New(rand.NewPCG(1, 2)), make([]byte, 4096) //nolint:gosec // it repeats
	for i := range want {
		want[i] = "abcdefgh"[rng.IntN(8)&rng.IntN(8)]
	}
	copy(want[2048:], want[:1024])
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	whole := e.EncodeAll(want, nil)
	read := func(r io.Reader) ([]byte, error) {
		z, err := newUnpacked(r)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		return io.ReadAll(z)
	}
	if got, err := read(bytes.NewReader(whole)); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("whole: %d bytes, %v", len(got), err)
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		got, err := read(bytes.NewReader(damaged))
		if !errors.Is(err, kiln.Integrity) && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("byte %d of %d: %v (%s)", i, len(whole), err, kiln.KindOf(err))
		}
		if _, err := read(bytes.NewReader(whole[:i])); i > 0 && !errors.Is(err, kiln.Integrity) {
			t.Errorf("cut at %d of %d: %v (%s)", i, len(whole), err, kiln.KindOf(err))
		}
	}
	// Nor does what comes say how much memory that takes.
	var large bytes.Buffer
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	w, err := zstd.NewWriter(&large, zstd.WithWindowSize(2*maxWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := read(&large); !errors.Is(err, kiln.Integrity) {
		t.Errorf("with a window of %d bytes: %v", 2*maxWindow, err)
	}
	// What the network says is no damage.
	lost := kiln.Errorf(kiln.Network, "the connection broke")
	if _, err := read(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]),
		iotest.ErrReader(lost))); !errors.Is(err, kiln.Network) || errors.Is(err, kiln.Integrity) {
		t.Errorf("%v (%s)", err, kiln.KindOf(err))
	}
}
