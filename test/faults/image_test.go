package faults

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// An image is the bytes of its files: one, or metadata and root filesystem.
type image [][]byte

func (i image) fingerprint() kiln.Fingerprint { return sha256.Sum256(bytes.Join(i, nil)) }

func (i image) size() int64 { return int64(len(bytes.Join(i, nil))) }

// unified makes an image of some bytes that nothing makes smaller, in one file.
func unified(t *testing.T, seed string, size int) image {
	t.Helper()
	return image{formattest.Tar(t,
		formattest.File{Name: "metadata.yaml", Body: formattest.Metadata + "# " + seed + "\n"},
		formattest.File{Name: "rootfs/", Type: tar.TypeDir, Mode: 0o755},
		formattest.File{Name: "rootfs/noise", Body: noise(seed, size)})}
}

// split is unified in two files.
func split(t *testing.T, seed string, size int) image {
	t.Helper()
	return image{
		formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: formattest.Metadata + "# " + seed + "\n"}),
		formattest.Tar(t, formattest.File{Name: "etc/", Type: tar.TypeDir, Mode: 0o755},
			formattest.File{Name: "noise", Body: noise(seed, size)}),
	}
}

// noise is the same for the same seed.
func noise(seed string, size int) string {
	r := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	b := make([]byte, size)
	_, _ = r.Read(b) // never fails
	return string(b)
}
