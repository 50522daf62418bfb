package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/archive/erofs"
)

const mib = 1 << 20

// writeSparse makes a file of a size with something at offsets; filled makes blocks
// of the zeros between them.
func writeSparse(t *testing.T, name string, size int64, filled bool, at ...int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if filled {
		_, err = io.CopyN(f, zeros{}, size)
	}
	for _, off := range at {
		_, werr := f.WriteAt([]byte("something"), off)
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, f.Truncate(size), os.Chtimes(name, then, then.Truncate(time.Second))); err != nil {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func pack(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Pack(t.Context(), dir, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sparseTree has files with zeros in all places.
func sparseTree(t *testing.T, filled bool) string {
	dir := t.TempDir()
	for name, at := range map[string][]int64{
		"empty": nil, "begin": {0}, "end": {8*mib - 9}, "middle": {5*mib + 77}, "odd": {12345, 3 * mib, 3*mib + 9},
		"many": {1 * mib, 3 * mib, 5 * mib, 7 * mib},
		strings.Repeat("directory/", 20) + strings.Repeat("n", 200): {mib},
	} {
		writeSparse(t, filepath.Join(dir, name), 8*mib, filled, at...)
	}
	writeSparse(t, filepath.Join(dir, "uneven"), 3*mib+1, filled, 2*mib)
	writeSparse(t, filepath.Join(dir, "small"), mib-1, filled, 7)
	writeSparse(t, filepath.Join(dir, "dense"), 3*mib, filled, 0, mib/2, mib, 3*mib/2, 2*mib, 5*mib/2)
	other := filepath.Join(dir, "attributes")
	writeSparse(t, other, 4*mib, filled, 2*mib)
	if err := errors.Join(os.Chown(other, 3_000_000, 4_000_000), os.Chmod(other, 0o4751),
		unix.Setxattr(other, "user.note", []byte("a=b\n"), 0), os.Link(other, filepath.Join(dir, "name2")),
		os.Chtimes(other, then, time.Unix(-1000, 0))); err != nil {
		t.Fatal(err)
	}
	// The directories' times differ between two trees.
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chtimes(p, then, then.Truncate(time.Second))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPackSparse packs files with holes, and files with zeros in blocks, which is the
// same. Both writers and other programs make the files again that were packed.
func TestPackSparse(t *testing.T) {
	dir := sparseTree(t, false)
	b := pack(t, dir)
	if len(b) > 12*mib {
		t.Errorf("%d bytes were packed of files that are holes mostly", len(b))
	}
	if !bytes.Equal(b, pack(t, sparseTree(t, true))) {
		t.Error("zeros that take blocks give other bytes than holes")
	}
	want := look(t, dir)
	delete(want, ".") // its date is the moment's
	for what, unpack := range map[string]func() string{
		"a directory": func() string { return toDir(t, bytes.NewReader(b)) },
		"an erofs":    func() string { return toErofs(t, bytes.NewReader(b)) },
		"GNU tar": func() string {
			out := t.TempDir()
			c := exec.Command("tar", "-x", "-C", out, "--numeric-owner", "--xattrs", "--xattrs-include=*")
			c.Stdin = bytes.NewReader(b)
			if msg, err := c.CombinedOutput(); err != nil {
				t.Fatalf("tar: %v: %s", err, msg)
			}
			return out
		},
	} {
		got := look(t, unpack())
		delete(got, ".")
		for _, tree := range []map[string]string{want, got} {
			for name, line := range tree {
				tree[name] = strings.TrimSuffix(line, " then")
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("the files (-) and %s (+):\n%s", what, d)
		}
	}
}

// TestSquashfsSparse hands a tar with holes to tar2sqfs, as publishing does.
func TestSquashfsSparse(t *testing.T) {
	dir := sparseTree(t, false)
	file := filepath.Join(t.TempDir(), "x")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	z, err := archive.Compress(t.Context(), out, archive.Compression{Name: "squashfs"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := archive.NewPacker(z)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := errors.Join(p.AddTree(t.Context(), root, "."), p.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := archive.SquashfsTar(t.Context(), out, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, want := look(t, toDir(t, r)), look(t, dir)
	for name := range want {
		size := func(s string) string { _, s, _ = strings.Cut(s, " size "); return strings.Fields(s + " x x")[0] }
		if size(want[name]) != size(got[name]) {
			t.Errorf("%s: %s, want %s", name, got[name], want[name])
		}
	}
}

// TestHugeHole packs and unpacks 8 GiB of nothing, which take no room anywhere.
func TestHugeHole(t *testing.T) {
	const size = 8 << 30
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "hole"), size, false, 5<<30)
	start := time.Now()
	b := pack(t, dir)
	t.Logf("packed in %v", time.Since(start))
	if len(b) > 2*mib {
		t.Errorf("packed into %d bytes", len(b))
	}
	lim := archive.Limits{Bytes: 2 * size, Room: mib}
	unpacked := t.TempDir()
	d, err := archive.NewDirWriter(unpacked, 1)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "erofs")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e := erofs.NewWriter(f, [16]byte{})
	for what, w := range map[string]archive.TreeWriter{filepath.Join(unpacked, "hole"): d, file: e} {
		start := time.Now()
		if err := errors.Join(archive.Walk(t.Context(), bytes.NewReader(b), lim, w.Add), w.Close()); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(what, &st); err != nil || st.Size < size || st.Blocks*512 > 2*mib {
			t.Errorf("%s: %v, %d bytes in %d blocks", what, err, st.Size, st.Blocks)
		}
		t.Logf("%s in %v", filepath.Base(what), time.Since(start))
	}
	if _, err := count(t.Context(), bytes.NewReader(b), archive.Limits{Bytes: size - 1}); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

// TestRoom has archives that don't fit on a disk.
func TestRoom(t *testing.T) {
	plain := makeTar(t, file{name: "a", body: "12345"}, file{name: "b", body: "12345"})
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "a"), 8*mib, false, 0, mib, 2*mib)
	writeSparse(t, filepath.Join(dir, "b"), 10, false, 0)
	for _, c := range []struct {
		b    []byte
		room int64
		fits bool
	}{{plain, 10, true}, {plain, 9, false}, {plain, 0, true}, {pack(t, dir), mib, true},
		{pack(t, dir), mib / 2, false}} {
		_, err := count(t.Context(), bytes.NewReader(c.b), archive.Limits{Room: c.room})
		if c.fits && err != nil || !c.fits && !errors.Is(err, kiln.NoSpace) {
			t.Errorf("%d bytes free: %v", c.room, err)
		}
	}
}

// TestForeignSparse reads what GNU tar makes of files with holes, in each of its formats.
func TestForeignSparse(t *testing.T) {
	dir := t.TempDir()
	for name, at := range map[string][]int64{"empty": nil, "begin": {0}, "end": {16*mib - 9}, "middle": {5*mib + 77},
		"many": {1 * mib, 3 * mib, 5 * mib, 7 * mib, 9 * mib, 11 * mib, 13 * mib}} {
		writeSparse(t, filepath.Join(dir, name), 16*mib, false, at...)
	}
	want := look(t, dir)
	delete(want, ".")
	for _, args := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"},
		{"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		b, err := exec.Command("tar", append(args, "-C", dir, "--sparse", "-c", ".")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for what, tree := range map[string]string{"a directory": toDir(t, bytes.NewReader(b)),
			"an erofs": toErofs(t, bytes.NewReader(b))} {
			got := look(t, tree)
			delete(got, ".")
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%v (-) and %s (+):\n%s", args, what, d)
			}
		}
		for n := 0; n < len(b)-20*512; n += len(b) / 20 {
			if _, err := count(t.Context(), bytes.NewReader(b[:n]), archive.Limits{}); err == nil {
				t.Errorf("%v: %d of %d bytes pass", args, n, len(b))
			}
		}
	}
}

// TestSparseRecords reads the headers of a sparse file as another program would.
func TestSparseRecords(t *testing.T) {
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "f"), 4*mib, false, mib)
	in := tar.NewReader(bytes.NewReader(pack(t, dir)))
	for {
		h, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != "f" {
			continue
		}
		if h.Size != 4*mib || h.PAXRecords["GNU.sparse.major"] != "1" || h.PAXRecords["GNU.sparse.realsize"] != "4194304" {
			t.Errorf("%+v", h)
		}
		break
	}
}
