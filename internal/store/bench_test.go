package store

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// large is a plain image of about n bytes in many files, half of whose content
// compresses away.
func large(tb testing.TB, n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	list := append(formattest.Meta(), formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755},
		formattest.File{Name: "rootfs/etc/", Type: '5', Mode: 0o755})
	const size = 100_000
	for i := range n / size {
		b := make([]byte, size)
		for j := range size / 2 {
			b[j] = byte(random.Uint32())
		}
		list = append(list, formattest.File{Name: fmt.Sprint("rootfs/f", i), Body: string(b)})
	}
	return formattest.Tar(tb, list...)
}

// BenchmarkPut imports 258 MB; "floor" is what no import can do without: one hash
// and one write to the disk, or the decompression alone.
func BenchmarkPut(b *testing.B) {
	plain := large(b, 258_000_000)
	dir := b.TempDir()
	b.Run("tar/floor", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		for b.Loop() {
			sum := sha256.New()
			f, err := os.Create(filepath.Join(dir, "floor"))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.MultiWriter(f, sum), struct{ io.Reader }{bytes.NewReader(plain)}); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	for _, c := range []struct{ name, program string }{{"tar", ""}, {"zstd", "zstd"}, {"gzip", "gzip"}} {
		img := plain
		if c.program != "" {
			img = formattest.Compress(b, plain, c.program)
		}
		b.Run(c.name, func(b *testing.B) { putAgain(b, img) })
	}
}

func putAgain(b *testing.B, img []byte) {
	s := open(b, b.TempDir())
	b.SetBytes(int64(len(img)))
	for b.Loop() {
		got, err := s.Put(b.Context(), kiln.Image{}, files(img))
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Delete(b.Context(), got.Fingerprint); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
