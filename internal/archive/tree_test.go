package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/archive/erofs"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

var then = time.Unix(1_600_000_000, 123_000_000).UTC()

// A file is one entry of a test's tar.
type file struct {
	name, body, link string
	typ              byte
	mode             int64
	uid, gid         int
	pax              map[string]string
}

func makeTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.typ, Linkname: f.link, Mode: f.mode, Uid: f.uid, Gid: f.gid,
			Size: int64(len(f.body)), ModTime: then, PAXRecords: f.pax, Format: tar.FormatPAX}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample() []file {
	files := []file{
		{name: "./", typ: tar.TypeDir, mode: 0o755},
		{name: "./etc/", typ: tar.TypeDir, mode: 0o750, uid: 5, gid: 7},
		{name: "./etc/hostname", body: "guest\n", mode: 0o644, uid: 1000, gid: 100000},
		{name: "./etc/empty", mode: 0o600},
		{name: "./bin/su", body: "#!setuid", mode: 0o4755},
		{name: "./bin/ping", body: "cap", mode: 0o755,
			pax: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.opaque": "y"}},
		{name: "./bin/sh", typ: tar.TypeSymlink, link: "/bin/su", mode: 0o777},
		{name: "./long", typ: tar.TypeSymlink, link: strings.Repeat("x/", 2040), mode: 0o777},
		{name: "./bin/hard", typ: tar.TypeLink, link: "./bin/su"},
		{name: "./pipe", typ: tar.TypeFifo, mode: 0o640},
		{name: "./dev/null", typ: tar.TypeChar, mode: 0o666},
		{name: "./big", body: strings.Repeat("0123456789abcdef", 200_000) + strings.Repeat("\x00", 3<<20) + "end",
			mode: 0o644},
		{name: "./twice", body: "first", mode: 0o644},
		{name: "./twice", body: "second", mode: 0o600},
		{name: "./" + strings.Repeat("n", 255), body: "long name", mode: 0o644},
		{name: "./a/b/c/implicit", body: "x", mode: 0o644},
	}
	for i := range 1500 {
		files = append(files, file{name: fmt.Sprintf("./many/file-with-some-name-%d", i), body: fmt.Sprint(i), mode: 0o644})
	}
	return append(files, file{name: "./etc/", typ: tar.TypeDir, mode: 0o700, uid: 6, gid: 7})
}

// look describes a tree: one line a file.
func look(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d nlink %d", fi.Mode(), st.Uid, st.Gid, st.Nlink)
		if !fi.IsDir() {
			line += fmt.Sprintf(" size %d %s", fi.Size(), fi.ModTime().UTC())
		} else if fi.ModTime().Equal(then) {
			line += " then"
		}
		if first, ok := inodes[st.Ino]; ok {
			line += " same as " + first
		}
		inodes[st.Ino] = rel
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", kiln.Fingerprint(sum(b)))
		case fi.Mode()&fs.ModeSymlink != 0:
			link, _ := os.Readlink(p)
			line += " -> " + link
		}
		buf := make([]byte, 4096)
		if n, err := unix.Llistxattr(p, buf); err == nil && n > 0 {
			names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
			slices.Sort(names)
			for _, name := range names {
				v := make([]byte, 4096)
				m, _ := unix.Lgetxattr(p, name, v)
				line += fmt.Sprintf(" %s=%x", name, v[:max(m, 0)])
			}
		}
		got[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// toDir and toErofs write a tar with each of the writers and give where to look.
func toDir(t testing.TB, r io.Reader) string {
	t.Helper()
	dir := t.TempDir()
	w, err := archive.NewDirWriter(dir, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(archive.Walk(t.Context(), r, archive.Limits{}, w.Add), w.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func toErofs(t testing.TB, r io.Reader) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "tree.erofs")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	w := erofs.NewWriter(f, [16]byte{1})
	if err := errors.Join(archive.Walk(t.Context(), r, archive.Limits{}, w.Add), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.erofs", img).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %s", out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", img, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %s", out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestWritersAgree(t *testing.T) {
	b := makeTar(t, sample()...)
	want := look(t, toDir(t, bytes.NewReader(b)))
	got := look(t, toErofs(t, bytes.NewReader(b)))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("directory (-) and erofs (+):\n%s", d)
	}
	for name, part := range map[string]string{
		"etc": "drwx------ 6:7", "bin/su": "urwxr-xr-x 0:0 nlink 2", "twice": "-rw------- 0:0 nlink 1 size 6",
		"bin/ping": "user.note=6869", "etc/hostname": "1000:100000", "a/b": "drwxr-xr-x 0:0",
	} {
		if !strings.Contains(want[name], part) {
			t.Errorf("%s: %q has no %q", name, want[name], part)
		}
	}
	if strings.Contains(want["bin/ping"], "overlay") {
		t.Error("an attribute that steers overlayfs came along")
	}
	if _, ok := want["dev/null"]; ok {
		t.Error("a device node was made")
	}
}

func TestDebianTree(t *testing.T) {
	f, err := os.Open(formattest.Debian(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := toDir(t, f)
	f.Seek(0, 0)
	if d := cmp.Diff(look(t, dir), look(t, toErofs(t, f))); d != "" {
		t.Errorf("directory (-) and erofs (+):\n%s", d)
	}
}

func TestPackIsReproducible(t *testing.T) {
	dir := toDir(t, bytes.NewReader(makeTar(t, sample()...)))
	var a, b bytes.Buffer
	if err := errors.Join(archive.Pack(t.Context(), dir, &a), archive.Pack(t.Context(), dir, &b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same tree gave different bytes")
	}
	again := toDir(t, &a)
	want, got := look(t, dir), look(t, again)
	for name := range want { // fractions of seconds are not packed
		want[name] = strings.Replace(want[name], ".123 ", " ", 1)
	}
	for name := range got {
		if strings.HasPrefix(got[name], "d") {
			got[name] = strings.TrimSuffix(got[name], " then")
			want[name] = strings.TrimSuffix(want[name], " then")
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("packed (-) and unpacked again (+):\n%s", d)
	}
}

func BenchmarkUnpack(b *testing.B) {
	data, err := os.ReadFile(formattest.Debian(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("directory", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			w, err := archive.NewDirWriter(b.TempDir(), 2)
			if err == nil {
				err = errors.Join(archive.Walk(b.Context(), bytes.NewReader(data), archive.Limits{}, w.Add), w.Close())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("erofs", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			f, err := os.Create(filepath.Join(b.TempDir(), "x"))
			if err != nil {
				b.Fatal(err)
			}
			w := erofs.NewWriter(f, [16]byte{})
			if err := errors.Join(archive.Walk(b.Context(), bytes.NewReader(data), archive.Limits{}, w.Add), w.Close(),
				f.Close()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("walk", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := archive.Walk(context.Background(), bytes.NewReader(data), archive.Limits{},
				func(*archive.Entry, io.Reader) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
