package archive

import (
	"bytes"
	"context"
	"errors"
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
	for _, name := range Compressions {
		t.Run(name, func(t *testing.T) {
			var plain bytes.Buffer
			packSample(t, dir, &plain, name == "squashfs")
			temp := t.TempDir()
			var made [2]bytes.Buffer
			for i := range made {
				w, err := Compress(t.Context(), &made[i], name, temp)
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
			if name == "squashfs" {
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
			r, _, err := Decompress(t.Context(), &made[0])
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); !bytes.Equal(got, plain.Bytes()) || err != nil {
				t.Errorf("%d bytes of %d, %v", len(got), plain.Len(), err)
			}
		})
	}
	for _, bad := range []string{"", "gzip -9", "/bin/sh", "zip"} {
		if _, err := Compress(t.Context(), io.Discard, bad, ""); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestCompressCancelled leaves neither a program nor a file.
func TestCompressCancelled(t *testing.T) {
	for _, name := range []string{"xz", "squashfs"} {
		temp := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		w, err := Compress(ctx, io.Discard, name, temp)
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
