package format

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestTruncated inspects and unpacks images of every format that were cut: in a
// header, in metadata, in a program that is looked at, in a sparse file, at the end.
func TestTruncated(t *testing.T) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	whole := formattest.Tar(t, append(formattest.Meta(),
		formattest.File{Name: "rootfs/", Type: tar.TypeDir, Mode: 0o755},
		formattest.File{Name: "rootfs/etc/os-release", Body: "ID=x\n"},
		formattest.File{Name: "rootfs/" + strings.Repeat("long/", 60) + "f", Body: "text"},
		formattest.File{Name: "rootfs/bin/sh", Body: string(program[:100_000]), Mode: 0o755},
		formattest.File{Name: "rootfs/last", Body: string(program[100_000:200_000])})...)
	gnu, lzma := sparseImage(t), formattest.Compress(t, whole, "xz", "--format=lzma")
	for what, b := range map[string][]byte{
		"tar": whole, "tar with sparse files": gnu,
		"gzip": formattest.Compress(t, whole, "gzip"), "bzip2": formattest.Compress(t, whole, "bzip2"),
		"zstd": formattest.Compress(t, whole, "zstd"), "lz4": formattest.Compress(t, whole, "lz4"),
		"xz": formattest.Compress(t, whole, "xz"), "lzma": lzma, "squashfs": formattest.Squashfs(t, whole),
	} {
		end := len(b)
		switch what {
		case "tar", "tar with sparse files":
			end = len(bytes.TrimRight(b, "\x00")) + 511 // one block of zeros is an end
		case "squashfs":
			end -= 4096 // padding
		}
		cuts := []int{0, 1, 4, 100, 262, 300, 511, 512, 513, 700, end - 700, end - 100, end - 1}
		for n := 1; n < 12; n++ {
			cuts = append(cuts, end*n/12, end*n/12&^511)
		}
		for _, n := range cuts {
			if n < 0 || n >= end {
				continue
			}
			f, err := os.Open(formattest.Write(t, "f", b[:n]))
			if err != nil {
				t.Fatal(err)
			}
			lim := archive.Limits{Bytes: 1 << 30, Room: 1 << 30, Entries: 1000}
			_, err = Inspect(t.Context(), bytes.NewReader(b[:n]), f, lim)
			f.Close()
			if !errors.Is(err, kiln.Integrity) {
				t.Errorf("%s: inspected %d of %d bytes: %v", what, n, len(b), err)
			}
			if what == "squashfs" {
				continue // which Inspect unpacked
			}
			rootfs, meta := dirWriter(t), dirWriter(t)
			err = Unpack(t.Context(), &one{Reader: bytes.NewReader(b[:n])}, archive.Limits{}, rootfs, meta)
			if !errors.Is(err, kiln.Integrity) {
				t.Errorf("%s: unpacked %d of %d bytes: %v", what, n, len(b), err)
			}
			_, _ = rootfs.Close(), meta.Close()
		}
	}
}

// sparseImage has a sparse file at its end, as GNU tar writes it.
func sparseImage(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(os.WriteFile(dir+"/metadata.yaml", []byte(formattest.Metadata), 0o644), os.Mkdir(dir+"/rootfs", 0o755),
		os.WriteFile(dir+"/rootfs/sparse", []byte(strings.Repeat("data", 5000)), 0o644),
		os.Truncate(dir+"/rootfs/sparse", 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	b, err := exec.Command("tar", "-C", dir, "--sparse", "--format=pax", "-c", "metadata.yaml", "rootfs").Output()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
