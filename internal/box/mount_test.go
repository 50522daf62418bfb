package box

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// userNS gives a namespace of users with the ids of the containers of tests.
func userNS(t *testing.T) *os.File {
	t.Helper()
	c := exec.Command("/bin/sleep", "1000")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: firstID, Size: 65536}}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/" + strconv.Itoa(c.Process.Pid) + "/ns/user")
	_ = c.Process.Kill()
	_ = c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestDevices lets a container use a device that it can't otherwise.
func TestDevices(t *testing.T) {
	tree := busybox(t, "")
	filepath.WalkDir(tree, func(p string, _ fs.DirEntry, _ error) error { return os.Lchown(p, 0, 0) })
	s := spec(t, tree)
	s.IDMap, s.Devices = nil, []Device{{Major: 10, Minor: 235}}
	b := start(t, s)
	can := func(node string, want int) {
		t.Helper()
		if code, out := run(t, b, sh(": </tmp/"+node)); code != want {
			t.Errorf("%s: %d %q", node, code, out)
		}
	}
	run(t, b, sh("mknod /tmp/control c 10 237; mknod /tmp/autofs c 10 235"))
	d := Device{Major: 10, Minor: 237}
	can("autofs", 0)
	can("control", 1)
	if err := b.AllowDevice(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	can("control", 0)
	if again, err := ParseDevice(d.String()); err != nil || again != d {
		t.Errorf("%v, %v", again, err)
	}
	for _, d := range []Device{d, {Major: 1, Minor: 3}} {
		if err := b.DenyDevice(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	can("control", 1)
	run(t, b, sh("mknod /tmp/null c 1 3"))
	can("null", 0) // which all containers have
}

// TestAttach mounts things in a container that runs, and takes them away.
func TestAttach(t *testing.T) {
	src := t.TempDir()
	file := filepath.Join(src, "file")
	if err := errors.Join(os.WriteFile(file, []byte("hello"), 0o600), os.Mkdir(src+"/sub", 0o700),
		unix.Mount("kiln", src+"/sub", "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(src+"/sub", unix.MNT_DETACH) })
	if err := os.WriteFile(src+"/sub/below", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ids := userNS(t)
	s := spec(t, busybox(t, "ln -s /srv/real /srv-link; ln -s ../../../outside /out; ln -s /nowhere /dangling; mkdir -p /outside /srv/real"))
	s.Mounts = []Mount{{Name: "first", Source: src, Target: "/first", ReadOnly: true},
		{Name: "under", Source: src, Target: "/two"}, {Name: "over", Source: src, Target: "/two"}}
	b := start(t, s)
	eventually(t, "rcS is done", func() bool { code, _ := run(t, b, sh("test -d /srv/real")); return code == 0 })
	attach := func(m Mount) uint64 {
		t.Helper()
		begin := time.Now()
		id, err := b.Attach(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("attach %s: %v", m.Target, time.Since(begin))
		return id
	}
	inside := func(command string, want int) {
		t.Helper()
		if code, out := run(t, b, sh(command)); code != want {
			t.Errorf("%s: %d %q", command, code, out)
		}
	}
	detach := func(name string, id uint64, busy bool) {
		t.Helper()
		if was, err := b.Detach(t.Context(), name, id, name == "one"); err != nil || was != busy {
			t.Errorf("detach %s: busy %v, %v", name, was, err)
		}
	}
	// What is read-only stays so, whatever the container's root does.
	inside("mount -o remount,bind,rw /first; echo > /first/x", 1)
	ro := attach(Mount{Name: "ro", Source: src, Target: "/a/new/place", ReadOnly: true, IDs: ids})
	inside(`test "$(cat /a/new/place/file)" = hello`, 0)
	inside("mount -o remount,bind,rw /a/new/place; echo > /a/new/place/x", 1)
	inside("test -e /a/new/place/sub/below", 1)
	inside("test $(stat -c %u /a/new) = 0", 0)
	// Shifted and with what is below.
	rw := attach(Mount{Name: "rw", Source: src, Target: "/srv-link/x y", IDs: ids, Recursive: true})
	inside("echo > '/srv/real/x y/mine' && test -e '/srv/real/x y/sub/below'", 0)
	if fi, err := os.Stat(src + "/mine"); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("%+v, %v", fi, err)
	}
	// A mount of the container on it isn't one of the host.
	inside("cd /srv/real/x* && mkdir m && mount -t tmpfs none m", 0)
	if out, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(out), src+"/m ") {
		t.Errorf("the host has the container's mount: %v", err)
	}
	inside("cd /srv/real/x* && umount m", 0)
	one := attach(Mount{Name: "one", Source: file, Target: "/etc/one"})
	memory := attach(Mount{Name: "memory", Target: "/memory", Memory: &Memory{Bytes: 1 << 20, Owner: firstID}})
	inside("echo > /memory/x && test $(stat -c %u /memory/x) = 0 && ! dd if=/dev/zero of=/memory/y bs=1k count=1100", 0)
	// Links that leave stay in the container's root.
	out := attach(Mount{Name: "out", Source: src, Target: "/out/x"})
	inside("test -e /outside/x/file", 0)
	for target, want := range map[string]string{
		"/etc/passwd/x": "Not a directory", "/dangling": "No such file", "/etc/passwd": "Not a directory",
		"/sys/kernel/x": "/sys/kernel/x", "/" + strings.Repeat("d/", 80) + "x": "No such file",
	} {
		_, err := b.Attach(t.Context(), Mount{Name: "wrong", Source: src, Target: target})
		if !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	inside("test ! -e /d", 0) // what was made for nothing is gone
	if _, err := b.Attach(t.Context(), Mount{Name: "none", Source: src + "/none", Target: "/x"}); !errors.Is(err, kiln.NotFound) {
		t.Error(err)
	}
	if _, err := b.Attach(t.Context(), Mount{Name: "proc", Source: "/proc", Target: "/x", IDs: ids}); !errors.Is(err,
		kiln.Unsupported) || !strings.Contains(err.Error(), "proc file system") {
		t.Error(err)
	}
	detach("one", one, false)
	detach("memory", memory, false)
	detach("out", out, false)
	detach("out", out, false) // it is gone
	inside("sleep 1000 < /a/new/place/file > /dev/null 2>&1 &", 0)
	detach("ro", ro, true)
	inside("mount -t tmpfs none '/srv/real/x y'", 0)
	if _, err := b.Detach(t.Context(), "rw", rw, false); !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), "over") {
		t.Error(err)
	}
	inside("umount '/srv/real/x y'", 0)
	detach("rw", rw, true) // with what is below
	detach("first", 0, false)
	if _, err := b.Detach(t.Context(), "under", 0, false); !errors.Is(err, kiln.Conflict) {
		t.Error(err)
	}
	detach("over", 0, false)
	inside("test -e /two/file", 0)
	detach("under", 0, false)
	inside("test ! -e /two/file", 0)
	inside("test ! -e /first/file && test ! -e /etc/one && test ! -e /a/new/place/file", 0)
	if out, _ := os.ReadFile("/proc/" + strconv.Itoa(b.InitPID()) + "/mountinfo"); strings.Contains(string(out), "/first") {
		t.Errorf("%s", out)
	}
	// Whatever the container has moved a mount over isn't removed by the host's right.
	host := t.TempDir()
	if err := errors.Join(os.WriteFile(host+"/marker", nil, 0o644), os.Chmod(host, 0o755)); err != nil {
		t.Fatal(err)
	}
	shared := attach(Mount{Name: "shared", Source: host, Target: "/shared"})
	one = attach(Mount{Name: "one", Source: file, Target: "/etc/one"})
	inside("rm /shared/marker", 1)
	inside("mount --make-rprivate / && mount --move /etc/one /shared/marker && test -s /shared/marker", 0)
	detach("one", one, false)
	inside("test -e /shared/marker && test ! -s /shared/marker && test -e /etc/one", 0)
	if _, err := os.Stat(host + "/marker"); err != nil {
		t.Errorf("a file of the host is gone: %v", err)
	}
	detach("shared", shared, false)
	// After a reboot what was taken away isn't shown for a moment, either.
	inside("reboot -f", 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if e, err := b.Next(ctx); err != nil || e.Kind != Rebooted {
		t.Fatal(e, err)
	}
	inside("test ! -e /first/file", 0)
	detach("first", 0, false)
}

// TestMountKind tells a full file system in a container from what is in the way there.
func TestMountKind(t *testing.T) {
	for code, want := range map[unix.Errno]kiln.Kind{unix.ENOSPC: kiln.NoSpace, unix.EDQUOT: kiln.NoSpace,
		unix.EBUSY: kiln.Conflict, unix.EACCES: kiln.Conflict, unix.ENOENT: kiln.Conflict, unix.ENAMETOOLONG: kiln.Invalid,
		unix.EIO: kiln.Internal} {
		if got := mountKind(code); got != want {
			t.Errorf("%v is %q, want %q", code, got, want)
		}
	}
}
