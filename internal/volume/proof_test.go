package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestUnpackWhole takes only what came whole: no cut, also none between two entries,
// and no changed bit reads as a smaller layer.
func TestUnpackWhole(t *testing.T) {
	from := t.TempDir()
	if err := errors.Join(os.Mkdir(from+"/d", 0o755), os.WriteFile(from+"/d/f", []byte("content"), 0o600),
		os.WriteFile(from+"/empty", nil, 0o600), os.Symlink("d/f", from+"/z"),
		unix.Setxattr(from+"/empty", "user.note", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := pack(t.Context(), from, &b, nil); err != nil {
		t.Fatal(err)
	}
	layer := b.Bytes()
	to := t.TempDir()
	take := func(r io.Reader) error {
		left := int64(1 << 30)
		dir, err := os.MkdirTemp(to, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		return unpack(t.Context(), r, dir, false, &left)
	}
	if err := take(bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	for n := range layer {
		if err := take(bytes.NewReader(layer[:n])); !errors.Is(err, kiln.Integrity) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(layer), err)
		}
		if n%4 != 0 {
			continue // one sum covers all of the bytes
		}
		flipped := bytes.Clone(layer)
		flipped[n] ^= 1
		if err := take(bytes.NewReader(flipped)); err == nil {
			t.Fatalf("bit of byte %d flipped: it is taken", n)
		}
	}
	if err := take(bytes.NewReader(append(bytes.Clone(layer), 0))); !errors.Is(err, kiln.Integrity) {
		t.Errorf("one byte more: %v", err)
	}
}

// TestManyXattrs packs files whose attributes don't fit into one header, as any user
// of a container can make where the file system has room for them.
func TestManyXattrs(t *testing.T) {
	dir := t.TempDir()
	img := filepath.Join(dir, "xfs")
	for _, args := range [][]string{{"truncate", "-s", "400M", img}, {"mkfs.xfs", "-q", img}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	at := dir + "/at"
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", img, at).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	from, to := at+"/from", at+"/to"
	if err := errors.Join(os.Mkdir(from, 0o755), os.Mkdir(to, 0o755), os.WriteFile(from+"/a", []byte("a"), 0o600),
		os.WriteFile(from+"/z", []byte("z"), 0o600)); err != nil {
		t.Fatal(err)
	}
	const count, size = 40, 60_000
	for i := range count {
		value := strings.Repeat(string(rune('a'+i%26)), size)
		if err := unix.Setxattr(from+"/a", fmt.Sprintf("user.%02d", i), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	left := int64(1 << 30)
	if err := errors.Join(pack(t.Context(), from, &b, nil), unpack(t.Context(), &b, to, false, &left)); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		got := make([]byte, 2*size)
		n, err := unix.Getxattr(to+"/a", fmt.Sprintf("user.%02d", i), got)
		if err != nil || n != size || got[0] != byte('a'+i%26) || got[size-1] != got[0] {
			t.Fatalf("attribute %d: %d bytes, %v", i, n, err)
		}
	}
	if list, err := readXattrs(to + "/z"); err != nil || len(list) != 0 {
		t.Errorf("the next file got attributes of the one before: %v, %v", list, err)
	}
	if got, err := os.ReadFile(to + "/z"); err != nil || string(got) != "z" {
		t.Errorf("%q, %v", got, err)
	}
}
