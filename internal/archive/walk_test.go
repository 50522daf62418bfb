package archive_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

func sum(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }

func count(ctx context.Context, r io.Reader, lim archive.Limits) (n int, err error) {
	err = archive.Walk(ctx, r, lim, func(_ *archive.Entry, r io.Reader) error {
		n++
		return nil
	})
	return n, err
}

func TestWalkRefuses(t *testing.T) {
	dir := file{name: "d/", typ: tar.TypeDir, mode: 0o755}
	for what, files := range map[string][]file{
		"dotdot":           {{name: "a/../../etc/passwd"}},
		"absolute dotdot":  {{name: "/../etc/passwd"}},
		"only dotdot":      {{name: "..", typ: tar.TypeDir, mode: 0o755}},
		"out by a symlink": {{name: "x", typ: tar.TypeSymlink, link: ".."}, {name: "x/passwd", body: "root"}},
		"out by two symlinks": {{name: "a/x", typ: tar.TypeSymlink, link: ".."},
			{name: "y", typ: tar.TypeSymlink, link: "a/x/../z"}, {name: "y/passwd"}},
		"out of rootfs": {{name: "rootfs/x", typ: tar.TypeSymlink, link: "../templates"}, {name: "rootfs/x/t"}},
		"round and round": {{name: "x", typ: tar.TypeSymlink, link: "y"}, {name: "y", typ: tar.TypeSymlink, link: "x"},
			{name: "x/f"}},
		"to a file": {{name: "f"}, {name: "x", typ: tar.TypeSymlink, link: "f"}, {name: "x/y"}},
		"longer than a path": {{name: "x", typ: tar.TypeSymlink, link: strings.Repeat("abcdefgh/", 450)},
			{name: "x" + strings.Repeat("/abcdefgh", 20)}},
		"hard link out":                  {{name: "x", typ: tar.TypeSymlink, link: "../x"}, {name: "h", typ: tar.TypeLink, link: "x/y"}},
		"through a file":                 {{name: "x"}, {name: "x/y"}},
		"hard link outside":              {{name: "h", typ: tar.TypeLink, link: "../../etc/shadow"}},
		"absolute hard link":             {{name: "h", typ: tar.TypeLink, link: "/etc/shadow"}},
		"hard link to nothing":           {{name: "h", typ: tar.TypeLink, link: "etc/shadow"}},
		"hard link to dir":               {dir, {name: "h", typ: tar.TypeLink, link: "d"}},
		"file for a full directory":      {dir, {name: "d/f"}, {name: "d"}},
		"link for a full directory":      {dir, {name: "d/f"}, {name: "d", typ: tar.TypeSymlink, link: "x"}},
		"hard link for a full directory": {{name: "f"}, {name: "d/f"}, {name: "d", typ: tar.TypeLink, link: "f"}},
		"device for a full directory":    {{name: "d/f"}, {name: "d", typ: tar.TypeChar}},
		"root is a hard link":            {{name: "f"}, {name: ".", typ: tar.TypeLink, link: "f"}},
		"attributes": {{name: "f", pax: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 2010),
			"SCHILY.xattr.user.b": strings.Repeat("x", 2010)}}},
		"parent then symlink": {{name: "d/f"}, {name: "d", typ: tar.TypeSymlink, link: "/etc"}},
		"root is a file":      {{name: ".", typ: tar.TypeSymlink, link: "/"}},
		"reserved owner":      {{name: "a", uid: 1<<32 - 2}},
		"owner out of range":  {{name: "a", gid: 1 << 33}},
		"long part":           {{name: strings.Repeat("a", 256)}},
		"empty symlink":       {{name: "a", typ: tar.TypeSymlink, link: ""}},
		"unknown type":        {{name: "a", typ: 'Z'}},
	} {
		_, err := count(t.Context(), bytes.NewReader(makeTar(t, files...)), archive.Limits{})
		if !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s: %v, want Invalid", what, err)
		} else if !strings.Contains(err.Error(), "entry") {
			t.Errorf("%s: the error names no entry: %v", what, err)
		}
	}
}

func TestWalkLimits(t *testing.T) {
	b := makeTar(t, file{name: "a", body: "12345"}, file{name: "b", body: "12345"})
	for lim, ok := range map[archive.Limits]bool{{}: true, {Bytes: 10}: true, {Bytes: 9}: false, {Entries: 2}: true,
		{Entries: 1}: false} {
		_, err := count(t.Context(), bytes.NewReader(b), lim)
		if ok && err != nil || !ok && !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%+v: %v", lim, err)
		}
	}
}

// TestWalkDeep has directories on the way to entries count as entries: there may be two
// thousand for each.
func TestWalkDeep(t *testing.T) {
	deep := strings.Repeat("a/", 100)
	b := makeTar(t, file{name: deep + "x"}, file{name: deep + "y"}, file{name: "b/" + deep + "z"})
	for entries, ok := range map[int64]bool{100: false, 203: false, 204: true} {
		_, err := count(t.Context(), bytes.NewReader(b), archive.Limits{Entries: entries})
		if ok && err != nil || !ok && !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%d: %v", entries, err)
		}
	}
}

// TestSparse has 10 GB of which nothing is in the archive.
func TestSparse(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(10 << 30)
	f.Close()
	out, err := exec.Command("tar", "-C", dir, "--sparse", "-c", "big").Output()
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(big)
	if _, err := count(t.Context(), bytes.NewReader(out), archive.Limits{Bytes: 1 << 30}); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	start := time.Now()
	if n, err := count(t.Context(), bytes.NewReader(out), archive.Limits{}); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	t.Logf("10 GB of holes in %v", time.Since(start))
}

// TestManyEntries: what is remembered of each doesn't make the next one slower, or no end
// is seen of this.
func TestManyEntries(t *testing.T) {
	const many = 70_000
	r, w := io.Pipe()
	go func() {
		z := tar.NewWriter(w)
		for i := range many {
			z.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i%1000, i), Typeflag: tar.TypeReg, Mode: 0o644})
		}
		w.CloseWithError(z.Close())
	}()
	if n, err := count(t.Context(), r, archive.Limits{}); n != many || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func compressed(t testing.TB, b []byte) map[archive.Format][]byte {
	t.Helper()
	all := map[archive.Format][]byte{archive.Tar: b}
	for f, cmd := range map[archive.Format][]string{
		archive.Gzip: {"gzip", "-c"}, archive.Bzip2: {"bzip2", "-c"}, archive.Xz: {"xz", "-c"},
		archive.Lzma: {"xz", "--format=lzma", "-c"}, archive.Zstd: {"zstd", "-c"}, archive.LZ4: {"lz4", "-c"},
	} {
		c := exec.Command(cmd[0], cmd[1:]...)
		c.Stdin = bytes.NewReader(b)
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		all[f] = out
	}
	return all
}

func unpack(t testing.TB, b []byte) (archive.Format, error) {
	z, f, err := archive.Decompress(t.Context(), bytes.NewReader(b), nil)
	if err != nil {
		return f, err
	}
	defer z.Close()
	_, err = count(t.Context(), z, archive.Limits{})
	return f, err
}

func TestDecompress(t *testing.T) {
	defer goleak.VerifyNone(t)
	b := makeTar(t, sample()[:12]...)
	for want, data := range compressed(t, b) {
		if f, err := unpack(t, data); f != want || err != nil {
			t.Errorf("%s: found %s, %v", want, f, err)
		}
		_, err := unpack(t, append(bytes.Clone(data), "garbage"...))
		if !errors.Is(err, kiln.Invalid) && !errors.Is(err, kiln.Integrity) { // a decoder may take it for more of its own
			t.Errorf("%s with garbage at the end: %v", want, err)
		}
		z, _, err := archive.Decompress(t.Context(), bytes.NewReader(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		z.Close() // unread: nothing may stay behind
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	defer goleak.VerifyNone(t)
	b := makeTar(t, file{name: "metadata.yaml", body: "x: y\n"}, file{name: "rootfs/a",
		body: strings.Repeat("random? ", 100)})
	for f, data := range compressed(t, b) {
		step := 1
		if f == archive.Xz || f == archive.Lzma || f == archive.Tar {
			step = 37 // a process each, or many bytes
		}
		end := len(data)
		if f == archive.Tar {
			end -= 1024 // the zeros at the end may be missing
		}
		for n := 0; n < end; n += step {
			if _, err := unpack(t, data[:n]); !errors.Is(err, kiln.Integrity) {
				t.Errorf("%s: %d of %d bytes: %v", f, n, len(data), err)
			}
		}
	}
}

func TestDamaged(t *testing.T) {
	b := makeTar(t, file{name: "a", body: strings.Repeat("some text that compresses ", 1000)})
	for f, data := range compressed(t, b) {
		if f == archive.Tar || f == archive.Lzma || f == archive.LZ4 {
			continue // plain tar and lzma have no checksum of the content
		}
		bad := bytes.Clone(data)
		bad[len(bad)/2] ^= 0x55
		if _, err := unpack(t, bad); !errors.Is(err, kiln.Integrity) {
			t.Errorf("%s: a flipped byte: %v", f, err)
		}
	}
}

func TestDetect(t *testing.T) {
	for head, want := range map[string]struct {
		kind kiln.Kind
		part string
	}{
		"": {kiln.Integrity, "empty"}, "PK\x03\x04xx": {kiln.Invalid, "zip"}, "architecture: x": {kiln.Invalid, "metadata.yaml"},
		"hello world": {kiln.Integrity, "68656c6c6f20776f"}, strings.Repeat("long", 200): {kiln.Invalid, "6c6f6e676c6f6e67"},
	} {
		if _, err := archive.Detect([]byte(head)); !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.part) {
			t.Errorf("%q: %v", head, err)
		}
	}
}

func TestSquashfs(t *testing.T) {
	dir := toDir(t, bytes.NewReader(makeTar(t, sample()...)))
	path := filepath.Join(t.TempDir(), "x")
	if out, err := exec.Command("mksquashfs", dir, path, "-comp", "zstd", "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read := func(b []byte) (int, error) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := archive.SquashfsTar(t.Context(), f, nil)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		return count(t.Context(), r, archive.Limits{})
	}
	if n, err := read(data); err != nil || n < 1500 {
		t.Errorf("%d entries, %v", n, err)
	}
	for _, n := range []int{0, 4, 50, 96, len(data) / 2, len(data) - 5000} {
		if _, err := read(data[:n]); !errors.Is(err, kiln.Integrity) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if _, err := read(append(bytes.Clone(data), "garbage"...)); !errors.Is(err, kiln.Invalid) {
		t.Errorf("garbage at the end: %v", err)
	}
	bad := bytes.Clone(data)
	for i := 200; i < 400; i++ {
		bad[i] ^= 0xff
	}
	if _, err := read(bad); !errors.Is(err, kiln.Integrity) {
		t.Errorf("a damaged block: %v", err)
	}
}

// TestNames has names that a file system allows.
func TestNames(t *testing.T) {
	got := map[string]string{}
	b := makeTar(t, file{name: "/", typ: tar.TypeDir}, file{name: "two\nlines"}, file{name: "/etc/absolute"},
		file{name: "//usr//x"},
		file{name: "hard", typ: tar.TypeLink, link: "/etc/absolute"}, file{name: "s", typ: tar.TypeSymlink, link: "a\nb"})
	err := archive.Walk(t.Context(), bytes.NewReader(b), archive.Limits{}, func(e *archive.Entry, _ io.Reader) error {
		got[e.Path] = e.Link
		return nil
	})
	want := map[string]string{".": "", "two\nlines": "", "etc/absolute": "", "usr/x": "", "hard": "etc/absolute",
		"s": "a\nb"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestPadding has archives that are followed by what is no part of them.
func TestPadding(t *testing.T) {
	plain := makeTar(t, file{name: "a", body: "b"})
	gz := func(b []byte) []byte {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(b)
		w.Close()
		return z.Bytes()
	}
	index := append(bytes.Clone(plain), "\xa6\x4c\x32\x2e\xd6\x14\xae\xdba\x00\x00"...)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"zeros":       {append(gz(plain), make([]byte, 512)...), ""},
		"members":     {append(gz(plain[:700]), gz(plain[700:])...), ""},
		"pixz":        {index, ""},
		"pixz in gz":  {gz(index), ""},
		"short junk":  {append(gz(plain), "junk"...), "garbage after the end"},
		"junk":        {append(gz(plain), bytes.Repeat([]byte("junk"), 100)...), "garbage after the end"},
		"cut":         {gz(plain)[:60], "truncated"},
		"cut member":  {append(gz(plain[:700]), gz(plain[700:])[:15]...), "truncated"},
		"zeros, junk": {append(append(gz(plain), make([]byte, 512)...), "junk"...), "garbage after the end"},
	} {
		_, err := unpack(t, c.b)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestEntryBytes has few entries with more to remember than their number allows.
func TestEntryBytes(t *testing.T) {
	var links, attrs []file
	for i := range 10 {
		name := fmt.Sprint(i)
		links = append(links, file{name: name, typ: tar.TypeSymlink, link: strings.Repeat("x", 4000)})
		attrs = append(attrs, file{name: name, pax: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 4000)}})
	}
	for what, files := range map[string][]file{"links": links, "attributes": attrs} {
		b := makeTar(t, files...)
		if _, err := count(t.Context(), bytes.NewReader(b), archive.Limits{Entries: 100}); kiln.KindOf(err) != kiln.TooLarge {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := count(t.Context(), bytes.NewReader(b), archive.Limits{Entries: 1000}); err != nil {
			t.Errorf("%s under a larger limit: %v", what, err)
		}
	}
}

func FuzzWalk(f *testing.F) {
	// Small ones: a mutation of megabytes takes the engine seconds.
	f.Add(makeTar(f, sample()[:11]...))
	f.Add(makeTar(f, sample()[12:16]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		archive.Walk(t.Context(), bytes.NewReader(b), archive.Limits{Bytes: 1 << 20, Entries: 1000},
			func(e *archive.Entry, r io.Reader) error {
				if e.Path == "" || e.Path[0] == '/' || e.Path == ".." || strings.HasPrefix(e.Path, "../") ||
					strings.Contains(e.Path, "/../") || strings.Contains(e.Path, "\x00") {
					t.Errorf("let through: %q", e.Path)
				}
				_, err := io.Copy(io.Discard, r)
				return err
			})
	})
}

func FuzzDecompress(f *testing.F) {
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	g.Write(makeTar(f, file{name: "a", body: "b"}))
	g.Close()
	f.Add(z.Bytes())
	enc, _ := zstd.NewWriter(nil)
	f.Add(enc.EncodeAll(makeTar(f, file{name: "a", body: "b"}), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := archive.Decompress(t.Context(), bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		defer r.Close()
		io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	})
}

func FuzzSuperblock(f *testing.F) {
	f.Add([]byte("hsqs"+strings.Repeat("\x00", 92)), int64(4096))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		s, err := archive.ParseSuperblock(b, size)
		if err == nil && (s.Size > size || s.Compressor == "") {
			t.Errorf("%+v of %d bytes", s, size)
		}
	})
}
