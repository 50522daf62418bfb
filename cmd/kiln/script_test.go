package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/network/nettest"
)

// TestMain lets the test binary be the command that the scripts call.
func TestMain(m *testing.M) {
	nettest.Isolate("kiln")
	testscript.Main(m, map[string]func(){"kiln": main})
}

// TestScripts runs the transcripts in testdata/script, each with a daemon, an
// empty store and the images of fixtures.
func TestScripts(t *testing.T) {
	images := fixtures(t)
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output() // what make builds with
	if err != nil {
		t.Fatal(err)
	}
	gocache, gomodcache, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	bin := clients(t, repo)
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"debian": debian},
		Setup: func(e *testscript.Env) error {
			// The path of a socket is short.
			dir, err := os.MkdirTemp("", "kiln-")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) }) // after those below
			e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
			if err := os.Chmod(dir, 0o711); err != nil { // LXD's containers have to get through
				return err
			}
			one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
			for key, value := range map[string]string{
				"KILN_DIR": one, "DIR1": one, "DIR2": two, "KILN_CONF": filepath.Join(e.WorkDir, "conf"),
				"XDG_CACHE_HOME": filepath.Join(e.WorkDir, "cache"),
				"LXD_DIR":        one, "LXD_CONF": filepath.Join(e.WorkDir, "lxc-conf"), "HOME": e.WorkDir, "IMAGES": images,
				"NO_COLOR": "1", "REPO": repo, "GORACE": os.Getenv("GORACE"), "GOCACHE": gocache, "GOMODCACHE": gomodcache,
			} {
				e.Setenv(key, value)
			}
			for _, name := range []string{"PORT1", "PORT2", "PORT3", "PORT4"} {
				port, err := freePort()
				if err != nil {
					return err
				}
				e.Setenv(name, port)
			}
			e.Defer(func() {
				killAll(t, one)
				killAll(t, two)
				unmountAll(t, dir) // what LXD leaves
			})
			return nil
		},
	})
}

// clients gives a directory with a kiln that is the test binary, with its race detector, for
// daemons and repairs, and for all else what make builds: transcripts start two thousand
// clients, and the detector would take most of the time of each.
func clients(t *testing.T, repo string) string {
	t.Helper()
	detects, err := exec.LookPath("kiln") // testscript.Main puts it there
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain", "kiln")
	if err := os.Mkdir(filepath.Dir(plain), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", plain, "./cmd/kiln")
	build.Dir, build.Env = repo, append(os.Environ(), "CGO_CFLAGS=-O2 -g") // as make's: nothing is compiled again
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	chooses := fmt.Sprintf(`#!/bin/sh
case "$1" in
daemon | admin) exec %s "$@" ;;
esac
exec %s "$@"
`, detects, plain)
	if err := os.WriteFile(filepath.Join(dir, "kiln"), []byte(chooses), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// debian is a command of the scripts: "debian VARIABLE package..." puts the path of
// a tarball into a variable, of a Debian with these packages.
func debian(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: debian VARIABLE package...")
	}
	path, err := formattest.DebianTar(args[1:]...)
	ts.Check(err)
	ts.Setenv(args[0], path)
}

// freePort finds a port that nobody listens on.
func freePort() (string, error) {
	address, err := nettest.FreeAddress()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(address)
	return port, err
}

// unmountAll lets go of what is mounted below a directory.
func unmountAll(t *testing.T, dir string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

// killAll ends the instances of scripts that failed half-way.
func killAll(t *testing.T, dir string) {
	boxes, err := filepath.Glob(filepath.Join(dir, "boxes", "*"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range boxes {
		if b, err := box.Open(path); err == nil {
			_ = b.Kill(t.Context())
			_, _ = b.Next(t.Context())
			_ = b.Close()
		}
	}
}

// fixtures makes images in every form.
func fixtures(t *testing.T) string {
	dir := t.TempDir()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	unified := formattest.Unified(t)
	meta, rootfs := formattest.Split(t)
	write("unified.tar", unified)
	write("unified.tar.gz", formattest.Compress(t, unified, "gzip"))
	write("unified.squashfs", formattest.Squashfs(t, unified))
	write("meta.tar.xz", formattest.Compress(t, meta, "xz"))
	write("rootfs.tar.zst", formattest.Compress(t, rootfs, "zstd"))
	write("rootfs.squashfs", formattest.Squashfs(t, rootfs))
	write("tiny1.tar", formattest.Tiny(t, "1"))
	write("tiny2.tar", formattest.Tiny(t, "2"))
	write("truncated.tar.gz", formattest.Compress(t, unified, "gzip")[:100_000])
	write("garbage", []byte("this is no image"))
	write("wrapped.tar", formattest.Tar(t, formattest.File{Name: "image/metadata.yaml", Body: formattest.Metadata},
		formattest.File{Name: "image/rootfs/", Type: '5', Mode: 0o755}))
	write("escape.tar", formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: formattest.Metadata},
		formattest.File{Name: "rootfs/../../etc/passwd", Body: "x"}))
	write("nodate.tar", formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: "architecture: amd64\n"},
		formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755}))
	write("sloppy.tar", formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: "architecture: amd64\n" +
		"creation_date: 1458040200.5\nproperties:\n  os: a\n  os: b\n"},
		formattest.File{Name: "rootfs/lib", Type: '2', Link: "/usr/lib"}, formattest.File{Name: "rootfs/lib/x", Body: "x"},
		formattest.File{Name: "rootfs/srv/null", Type: '3'}))
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", tree, "-xf", filepath.Join(dir, "unified.tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}
