package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// sampleTree has every kind of file.
func sampleTree(t *testing.T) *os.File {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.Mkdir(dir+"/d", 0o755), unix.Chmod(dir+"/d", 0o2750), os.WriteFile(dir+"/d/f", bytes.Repeat([]byte("text"), 1000),
			0o600), os.Link(dir+"/d/f", dir+"/link"),
		os.Symlink("/etc/passwd", dir+"/sym"), unix.Mkfifo(dir+"/fifo", 0o640),
		unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0), os.WriteFile(dir+"/bad\xff", nil, 0o644),
		os.Chown(dir+"/d/f", 5, 3_000_000_000),
		unix.Setxattr(dir+"/d", "user.note", []byte("hi"), 0), unix.Setxattr(dir+"/d/f", "trusted.note", []byte("no"), 0),
		os.Chtimes(dir+"/d/f", time.Unix(1, 5), time.Unix(2, 999)),
		// An ACL: the owner and one more may read.
		unix.Setxattr(dir+"/d/f", "system.posix_acl_access",
			[]byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x00\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"), 0),
		unix.Setxattr(dir+"/link", "security.capability",
			[]byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
	); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func packSample(t *testing.T, dir *os.File, w io.Writer, noACLs bool) {
	t.Helper()
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	p := NewPacker(w)
	p.NoACLs = noACLs
	if err := errors.Join(p.AddFile("metadata.yaml", []byte("x"), time.Unix(9, 9)), p.AddTree(t.Context(), dir, "rootfs"),
		p.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestPacker(t *testing.T) {
	dir := sampleTree(t)
	var one, two bytes.Buffer
	packSample(t, dir, &one, false)
	os.Chtimes(dir.Name()+"/d/f", time.Unix(77, 0), time.Unix(2, 5)) // it was read meanwhile
	packSample(t, dir, &two, false)
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the same tree gives other bytes")
	}
	entries := map[string]Entry{}
	var order []string
	err := Walk(t.Context(), &one, Limits{}, func(e *Entry, r io.Reader) error {
		entries[e.Path] = *e
		order = append(order, e.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"metadata.yaml", "rootfs", "rootfs/bad\xff", "rootfs/d", "rootfs/d/f", "rootfs/fifo", "rootfs/link",
		"rootfs/null", "rootfs/sym"}
	if !slices.Equal(order, want) {
		t.Errorf("%q", order)
	}
	f := entries["rootfs/d/f"]
	if f.UID != 5 || f.GID != 3_000_000_000 || f.Mode != 0o640 || f.Size != 4000 || !f.ModTime.Equal(time.Unix(2, 0)) ||
		len(f.Xattrs) != 2 {
		t.Errorf("%+v", f)
	}
	if e := entries["rootfs/link"]; e.Type != Hardlink || e.Link != "rootfs/d/f" {
		t.Errorf("%+v", e)
	}
	if e := entries["rootfs/d"]; e.Mode != 0o2750 || e.Xattrs["user.note"] != "hi" {
		t.Errorf("%+v", e)
	}
	if e := entries["rootfs/null"]; e.Type != CharDevice || e.Major != 1 || e.Minor != 3 {
		t.Errorf("%+v", e)
	}
	if e := entries["rootfs/sym"]; e.Link != "/etc/passwd" {
		t.Errorf("%+v", e)
	}
}

func TestCompress(t *testing.T) {
	dir := sampleTree(t)
	more := []string{"gzip -9", "gzip --rsyncable", "zstd -19", "xz -1e", "bzip2 -1", "lz4 -9", "squashfs -comp gzip"}
	for _, name := range append(more, Compressions...) {
		t.Run(name, func(t *testing.T) {
			var plain bytes.Buffer
			packSample(t, dir, &plain, strings.HasPrefix(name, "squashfs"))
			temp := t.TempDir()
			var made [2]bytes.Buffer
			for i := range made {
				w, err := Compress(t.Context(), &made[i], compression(t, name), temp)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(plain.Bytes()); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(made[0].Bytes(), made[1].Bytes()) {
				t.Error("the same bytes become others")
			}
			if left, err := os.ReadDir(temp); len(left) != 0 || err != nil {
				t.Errorf("%v, %v", left, err)
			}
			if strings.HasPrefix(name, "squashfs") {
				file := filepath.Join(t.TempDir(), "f")
				if err := os.WriteFile(file, made[0].Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command("sqfs2tar", file).Output()
				if err != nil || !strings.Contains(string(out), "rootfs/d/f") {
					t.Errorf("%d bytes, %v", len(out), err)
				}
				return
			}
			r, _, err := Decompress(t.Context(), &made[0], nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); !bytes.Equal(got, plain.Bytes()) || err != nil {
				t.Errorf("%d bytes of %d, %v", len(got), plain.Len(), err)
			}
		})
	}
}

func compression(t *testing.T, text string) Compression {
	t.Helper()
	c, err := ParseCompression(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseCompression(t *testing.T) {
	for text, want := range map[string]Compression{
		"none":                      {Name: "none"},
		"gzip":                      {Name: "gzip"},
		"gzip -9":                   {Name: "gzip", Level: 9},
		" gzip  -1 --rsyncable":     {Name: "gzip", Level: 1, RSyncable: true},
		"gzip -n9":                  {},
		"gzip -n -9":                {Name: "gzip", Level: 9},
		"gzip --best":               {Name: "gzip", Level: 9},
		"zstd -19":                  {Name: "zstd", Level: 19},
		"zstd --ultra -22":          {Name: "zstd", Level: 22},
		"zstd --rsyncable":          {Name: "zstd", RSyncable: true},
		"xz -e":                     {Name: "xz", Extreme: true},
		"xz -9e":                    {Name: "xz", Level: 9, Extreme: true},
		"xz -0":                     {Name: "xz", Level: zeroLevel},
		"xz --fast --extreme":       {Name: "xz", Level: zeroLevel, Extreme: true},
		"bzip2 -1":                  {Name: "bzip2", Level: 1},
		"lz4 --best":                {Name: "lz4", Level: 9},
		"squashfs -comp xz":         {Name: "squashfs", Compressor: "xz"},
		"squashfs -c zstd":          {Name: "squashfs", Compressor: "zstd"},
		"squashfs --compressor=lz4": {Name: "squashfs", Compressor: "lz4"},
		"zstd -3 --rsyncable":       {Name: "zstd", Level: 3, RSyncable: true},
		"zstd -19 --rsyncable":      {},
		// What is refused
		"": {}, "zip": {}, "/bin/sh": {}, "sh -c x": {}, "gzip -0": {}, "gzip -10": {}, "gzip -09": {}, "gzip --": {}, "gzip -": {},
		"gzip 9": {}, "gzip -e": {}, "gzip --best=x": {}, "gzip -9 -o /etc/passwd": {}, "none -1": {}, "none --fast": {},
		"zstd -23": {}, "zstd -D /etc/passwd": {}, "zstd --best": {}, "xz -10": {}, "xz -k": {}, "xz --files=/etc/passwd": {},
		"xz -99999999999999999999": {}, "squashfs -9": {}, "squashfs -c": {}, "squashfs -c lzo2": {}, "squashfs --compressor=": {},
		"squashfs --root-becomes x": {}, "squashfs -zc": {}, "lz4 -12": {}, "bzip2 --rsyncable": {}, "GZIP": {},
	} {
		got, err := ParseCompression(text)
		switch {
		case want.Name == "" && !errors.Is(err, kiln.Invalid):
			t.Errorf("%q: %+v, %v; want Invalid", text, got, err)
		case want.Name != "" && (err != nil || got != want):
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, part := range map[string]string{
		"gzip -9 --long":  `option "--long"; gzip takes -1 to -9, --fast, --best, --rsyncable`,
		"zip -9":          "it is one of none, gzip, zstd",
		"squashfs -c lzo": `option "-c"; squashfs takes -c or --compressor with gzip, xz, lz4 or zstd`,
	} {
		if _, err := ParseCompression(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want %q", text, err, part)
		}
	}
}

func FuzzParseCompression(f *testing.F) {
	f.Add("gzip -9 --rsyncable")
	f.Add("squashfs --compressor=xz")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCompression(text)
		if err != nil {
			return
		}
		if a := algorithms()[c.Name]; c.Level != zeroLevel && (c.Level < 0 || c.Level > a.high) {
			t.Errorf("%q: %+v", text, c)
		}
		if n := c.xzThreads(); c.Name == "xz" && !strings.HasPrefix(n, "--threads=+") {
			t.Error(n)
		}
	})
}

// TestLevels has options that make a difference.
func TestLevels(t *testing.T) {
	text := make([]byte, 0, 256<<10)
	for i := 0; len(text) < 256<<10; i++ {
		text = fmt.Appendf(text, "%d %d ", i*i%9973, i%127)
	}
	size := func(name string) int {
		var b bytes.Buffer
		w, err := Compress(t.Context(), &b, compression(t, name), "")
		if err == nil {
			_, err = w.Write(text)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return b.Len()
	}
	for _, pair := range [][2]string{{"gzip -9", "gzip -1"}, {"zstd -19", "zstd -1"}, {"xz -9", "xz -0"}, {"bzip2 -9", "bzip2 -1"},
		{"gzip -9", "gzip -9 --rsyncable"}, {"lz4 -9", "lz4 -1"}} {
		if a, b := size(pair[0]), size(pair[1]); a >= b {
			t.Errorf("%s makes %d bytes, %s %d", pair[0], a, pair[1], b)
		}
	}
}

// TestConfined looks at what a program that compresses may do.
func TestConfined(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	var out bytes.Buffer
	p, err := compressWith(t.Context(), &out, nil, nil, "coreutils", "sh", "-c",
		"id -u; id -g; id -G; ulimit -v; ulimit -f; ulimit -c; pwd; env; grep CapEff /proc/self/status; cat")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p, "the end"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"65534\n65534\n65534\n4194304\n0\n0\n/\n", "CapEff:\t0000000000000000", "the end"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
	if strings.Contains(out.String(), "HOME=") {
		t.Errorf("the environment went along: %q", out.String())
	}
	p, err = compressWith(t.Context(), io.Discard, nil, nil, "none", "sh", "-c", "echo no good >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "no good") {
		t.Errorf("a program that fails: %v", err)
	}
	if _, err := compressWith(t.Context(), io.Discard, nil, nil, "nice-package", "not-there"); !errors.Is(err,
		kiln.Unsupported) || !strings.Contains(err.Error(), "install the package nice-package") {
		t.Errorf("a program that is missing: %v", err)
	}
}

// TestCompressCancelled leaves neither a program nor a file.
func TestCompressCancelled(t *testing.T) {
	for _, name := range []string{"xz", "squashfs"} {
		temp := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		w, err := Compress(ctx, io.Discard, compression(t, name), temp)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := w.Close(); err == nil {
			t.Errorf("%s: no error", name)
		}
		for range 100 {
			if left, _ := os.ReadDir(temp); len(left) == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if left, _ := os.ReadDir(temp); len(left) != 0 {
			t.Errorf("%s: %v", name, left)
		}
	}
}
