package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestPrivileges has a program that decodes show what it may do.
func TestPrivileges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	if err := os.WriteFile(path, []byte("content\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := pipeThrough(t.Context(), mostMemory, nil, f, "sh", "-c", `id -u; id -G; cat `+inFile+`; ulimit -v; ulimit -f;
		sed -n 's/^CapEff:\t//p' /proc/self/status`)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b, err := io.ReadAll(p)
	if err != nil {
		t.Fatal(err)
	}
	if want := "65534\n65534\ncontent\n1048576\n0\n0000000000000004\n"; string(b) != want { // CAP_DAC_READ_SEARCH
		t.Errorf("a program says\n%s, want\n%s", b, want)
	}
}

func compressed(t *testing.T, b []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append(args, "--stdout")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDictionaries has streams that ask for more memory than they are worth.
func TestDictionaries(t *testing.T) {
	tar := make([]byte, 10240)
	large := compressed(t, tar)
	// The header of the first block, as in the .xz file format, 3.1: its size, flags,
	// the filter LZMA2, the size of its properties, a dictionary of 1.5 GiB, a CRC.
	const block = 12
	end := block + int(large[block])*4
	filter := bytes.Index(large[block:end], []byte{0x21, 0x01}) + block
	large[filter+2] = 37
	binary.LittleEndian.PutUint32(large[end:], crc32.ChecksumIEEE(large[block:end]))
	alone := compressed(t, tar, "--format=lzma")
	binary.LittleEndian.PutUint32(alone[1:], 3<<30)
	for name, b := range map[string][]byte{"xz": large, "lzma": alone} {
		in := bytes.NewReader(b)
		z, err := xzReader(t.Context(), in, name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, z)
		if err = damaged(err); kiln.KindOf(err) != kiln.TooLarge || !strings.Contains(err.Error(), "192 MiB") {
			t.Errorf("%s: %v", name, err)
		}
		z.Close()
	}
	for name, b := range map[string][]byte{"xz": compressed(t, tar, "-9e"),
		"lzma": compressed(t, tar, "-9e", "--format=lzma")} {
		z, err := xzReader(t.Context(), bytes.NewReader(b), name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, tar) {
			t.Errorf("%s -9e: %d bytes, %v", name, len(got), err)
		}
		z.Close()
	}
}

// TestSquashfsSocket has a socket left out, whatever its name, and nothing else.
func TestSquashfsSocket(t *testing.T) {
	dir := t.TempDir()
	file := dir + ".squashfs"
	if err := errors.Join(os.WriteFile(dir+"/f", []byte("x"), 0o644),
		unix.Mknod(dir+"/a\nsocket", unix.S_IFSOCK|0o600, 0)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mksquashfs", dir, file, "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%s%v", out, err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := SquashfsTar(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var names []string
	err = Walk(t.Context(), r, Limits{}, func(e *Entry, _ io.Reader) error {
		names = append(names, e.Path)
		return nil
	})
	if err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("%q, %v", names, err)
	}
	for _, stderr := range []string{"WARNING: x: cannot pack door\nSkipping x\n", "Found a file named 'x', skipping.\n",
		strings.Repeat("WARNING: x: cannot pack socket\nSkipping x\n", 10_000)[:maxStderr]} {
		if err := onlySockets(stderr); kiln.KindOf(err) != kiln.Invalid {
			t.Errorf("%.60q: %v", stderr, err)
		}
	}
}
