// Package formattest makes small images for the tests of other packages: a static
// busybox that boots. It is for tests only.
package formattest

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Metadata is a metadata.yaml with everything that can be in one.
const Metadata = `architecture: amd64
creation_date: 1458040200
properties:
  description: Busybox for tests
  os: busybox
  release: 1.35
templates:
  /etc/hostname:
    when: [create, copy, rename]
    template: hostname.tpl
  /etc/started:
    when: [start]
    template: started.tpl
    properties:
      greeting: hello
`

var templates = map[string]string{
	"hostname.tpl": "{{ container.name }}\n",
	"started.tpl":  "{{ properties.greeting }} {{ trigger }} {{ config_get(\"user.who\", \"nobody\") }}\n",
}

// A File is an entry to add to a tarball.
type File struct {
	Name, Body, Link string
	Type             byte // of package archive/tar; 0: a plain file
	Mode             int64
}

// Tar packs files, with nothing of the moment in it.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Linkname: f.Link, Typeflag: f.Type, Mode: f.Mode, Size: int64(len(f.Body)),
			ModTime: time.Unix(1458040200, 0)}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.Body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Meta is the metadata side of an image.
func Meta() []File {
	files := []File{{Name: "metadata.yaml", Body: Metadata}, {Name: "templates/", Type: tar.TypeDir, Mode: 0o755}}
	for _, name := range []string{"hostname.tpl", "started.tpl"} {
		files = append(files, File{Name: "templates/" + name, Body: templates[name]})
	}
	return files
}

// Rootfs is a root filesystem with a static busybox, below a prefix.
func Rootfs(t testing.TB, prefix string) []File {
	t.Helper()
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("busybox-static is needed: ", err)
	}
	var files []File
	for _, d := range []string{"", "bin/", "sbin/", "etc/", "etc/init.d/", "dev/", "proc/", "sys/", "tmp/", "root/",
		"run/", "var/"} {
		if prefix+d != "" {
			files = append(files, File{Name: prefix + d, Type: tar.TypeDir, Mode: 0o755})
		}
	}
	files = append(files,
		File{Name: prefix + "bin/busybox", Body: string(bin), Mode: 0o755},
		File{Name: prefix + "sbin/init", Type: tar.TypeSymlink, Link: "/bin/busybox"},
		File{Name: prefix + "etc/passwd", Body: "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"},
		File{Name: prefix + "etc/group", Body: "root:x:0:\nuser:x:1000:\n"},
		File{Name: prefix + "etc/os-release", Body: "ID=busybox\nVERSION_ID=1\nPRETTY_NAME=\"Busybox 1\"\n"},
		File{Name: prefix + "etc/inittab", Body: "::sysinit:/etc/init.d/rcS\n::respawn:/bin/sleep 100000\n"},
		File{Name: prefix + "etc/init.d/rcS", Body: "#!/bin/sh\n:\n", Mode: 0o755},
	)
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" && applet != "init" {
			files = append(files, File{Name: prefix + "bin/" + applet, Type: tar.TypeSymlink, Link: "busybox"})
		}
	}
	return files
}

// Unified is a whole image as one plain tarball.
func Unified(t testing.TB) []byte {
	return Tar(t, append(Meta(), Rootfs(t, "rootfs/")...)...)
}

// Split is the same image as two plain tarballs.
func Split(t testing.TB) (metadata, rootfs []byte) {
	return Tar(t, Meta()...), Tar(t, Rootfs(t, "")...)
}

// Tiny is an image without a system in it, quick to make and to read. Different
// seeds give different fingerprints.
func Tiny(t testing.TB, seed string) []byte {
	return Tar(t, File{Name: "metadata.yaml", Body: Metadata + "# " + seed + "\n"},
		File{Name: "rootfs/", Type: tar.TypeDir, Mode: 0o755})
}

// Compress runs a program over bytes: "gzip", "zstd", …
func Compress(t testing.TB, b []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, append(args, "-c")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

// Squashfs packs a tarball again as a squashfs.
func Squashfs(t testing.TB, tarball []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.squashfs")
	cmd := exec.Command("tar2sqfs", "--quiet", "--compressor", "zstd", path)
	cmd.Stdin = bytes.NewReader(tarball)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar2sqfs: %v: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Write puts bytes into a file of the test's own and gives its path.
func Write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
